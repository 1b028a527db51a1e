"""Ids of stages: 12 hex digits of SHA-256 over the resolved spec and the ids of the stages that are read.

None means "feature off" and is left out, so that a new optional field keeps every old id. A value without stable bytes
is refused.
"""

import hashlib
import json
import math
from collections.abc import Mapping

SPEC_VERSION = 1
ID_LENGTH = 12
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical(value: object) -> str:
    """JSON with sorted keys and no None. Raises TypeError for anything but str, bool, int, finite float, list, dict."""
    return _ENCODER.encode(_plain(value))


def stage_id(kind: str, spec: Mapping[str, object], reads: Mapping[str, str]) -> str:
    """The id of a stage. Equal specs with equal inputs are one stage, in whatever study."""
    return digest({"version": SPEC_VERSION, "kind": kind, "spec": spec, "reads": reads})


def digest(value: object) -> str:
    """Twelve hex digits of SHA-256 (48 bits: the odds of a collision among 10,000 stages are 2e-7)."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:ID_LENGTH]


_SCALARS = frozenset({str, int, bool})


def _plain(value: object) -> object:
    if type(value) in _SCALARS:  # most values by far; a plan of 10,000 runs has millions
        return value
    if isinstance(value, dict | Mapping):
        plain: dict[str, object] = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"keys must be text: {list(value)}")
            if item is not None:
                plain[key] = item if type(item) in _SCALARS else _plain(item)
        return plain
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{value} is not finite and has no stable bytes")
        return value
    raise TypeError(f"{value!r} of type {type(value).__name__} has no stable bytes")
