"""Checkpoints of one run: whole or absent, verified before they are read, free of pickles.

A run's state is its fp32 numbers, the optimiser's moments and a few counters; order and dropout are functions of those,
so there is no generator state to keep. A checkpoint is a folder `step_000200` with `state.safetensors`, `state.json`
and, written last, `MANIFEST.json` with the size and SHA-256 of both (reference: single bit flips pass every common
format unseen).
"""

import errno
import json
import re
import shutil
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from p2p_dist.assets import file_sha256
from p2p_dist.errors import Exit, user_error
from p2p_dist.results import atomic

KEEP = 2
_NAME = re.compile(r"^step_\d{6,}$")
_TENSORS, _COUNTERS, _MANIFEST = "state.safetensors", "state.json", "MANIFEST.json"


@dataclass(frozen=True)
class Counters:
    """Progress of a run."""

    step: int
    samples_seen: int
    tokens: int
    seconds: float
    loss: float
    topologies: tuple[str, ...] = ()
    """The layouts under which it came here (see `Execution.topology`)."""


@dataclass(frozen=True)
class RunState:
    """Everything that a run goes on from. Shapes: all tensors [P], fp32; [Q] where the adapter is generated."""

    counters: Counters
    values: torch.Tensor
    first_moment: torch.Tensor
    second_moment: torch.Tensor


@dataclass(frozen=True)
class Found:
    """The newest checkpoint that verifies, or None, and why newer ones were passed over."""

    state: RunState | None
    skipped: list[str]
    changes: dict[str, list[Any]] = field(default_factory=dict)
    """Allowed differences from the checkpoint's fingerprint: key -> [then, now]."""


def require_space(folder: Path, size: int) -> None:
    """Refuse to start a training of [size] numbers whose checkpoints would not fit. Raises UserError E313."""
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = (KEEP + 1) * _bytes(size), shutil.disk_usage(folder).free
    if free < needed:
        what = f"checkpoints need {_mib(needed)} ({KEEP} are kept while the next is written), {_mib(free)} are free"
        raise user_error("E313", what, str(folder), "free some space, or another --runs-dir", Exit.INTEGRITY)


def save(folder: Path, state: RunState, fingerprint: dict[str, Any]) -> None:
    """Write the state of a step; one that is there already is left alone. Keeps the newest two.

    Raises UserError E314 when the disk is full; the checkpoints before it stay whole.
    """
    target = folder / f"step_{state.counters.step:06d}"
    if target.exists():
        return
    try:
        _write(target, state, fingerprint)
    except (OSError, SafetensorError) as error:
        if not _is_full(error):
            raise
        what = (
            f"no space to save step {state.counters.step}: {_mib(_bytes(state.values.numel()))} needed, "
            f"{_mib(shutil.disk_usage(folder).free)} free"
        )
        raise user_error(
            "E314", what, str(folder), "free some space and run the same command again", Exit.INTEGRITY
        ) from error
    for old in _newest_first(folder)[KEEP:]:
        shutil.rmtree(old)


def _bytes(size: int) -> int:
    """Of a checkpoint with [size] numbers: three fp32 vectors and some text."""
    return 3 * 4 * size + 4096


def _mib(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"


def _is_full(error: Exception) -> bool:
    # safetensors reports the system's error as text.
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or f"(os error {errno.ENOSPC})" in str(error)


def _write(target: Path, state: RunState, fingerprint: dict[str, Any]) -> None:
    with atomic.new_folder(target) as half:
        tensors = {"values": state.values, "first_moment": state.first_moment, "second_moment": state.second_moment}
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, half / _TENSORS)
        (half / _COUNTERS).write_bytes(atomic.to_json(asdict(state.counters)))
        files = {
            name: {"bytes": (half / name).stat().st_size, "sha256": file_sha256(half / name)}
            for name in (_TENSORS, _COUNTERS)
        }
        (half / _MANIFEST).write_bytes(atomic.to_json({"fingerprint": fingerprint, "files": files}))


def newest(folder: Path, fingerprint: dict[str, Any], allow_change: Collection[str] = ()) -> Found:
    """The newest checkpoint whose files are what its manifest says and whose fingerprint is this run's, but for what
    may differ (`allow_change`, keys of the fingerprint)."""
    skipped: list[str] = []
    for path in _newest_first(folder):
        why = _problem(path, fingerprint, allow_change)
        if why is None:
            recorded = json.loads((path / _MANIFEST).read_text())["fingerprint"]
            changes = {key: [recorded.get(key), fingerprint.get(key)] for key in _differing(recorded, fingerprint)}
            return Found(
                RunState(counters_of(json.loads((path / _COUNTERS).read_text())), **_tensors(path)), skipped, changes
            )
        skipped.append(f"{path.name}: {why}")
    return Found(None, skipped)


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    """The numbers of a checkpoint in memory of their own: the file's is mapped, and is deleted while the training goes
    on."""
    return {name: tensor.clone() for name, tensor in load_file(path / _TENSORS).items()}


def _newest_first(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        (path for path in folder.iterdir() if _NAME.match(path.name)), key=lambda path: int(path.name[5:]), reverse=True
    )


def counters_of(kept: dict[str, Any]) -> Counters:
    """Counters as they were read from JSON."""
    return Counters(**{**kept, "topologies": tuple(kept.get("topologies", ()))})


def _differing(recorded: dict[str, Any], fingerprint: dict[str, Any]) -> list[str]:
    return sorted(key for key in fingerprint.keys() | recorded.keys() if fingerprint.get(key) != recorded.get(key))


def _problem(path: Path, fingerprint: dict[str, Any], allow_change: Collection[str]) -> str | None:
    """Reason why a checkpoint cannot be used, or None."""
    try:
        manifest = json.loads((path / _MANIFEST).read_text())
        recorded = manifest["fingerprint"]
        for name, facts in manifest["files"].items():
            if (size := (path / name).stat().st_size) != facts["bytes"]:
                return f"{name} has {size} bytes, expected {facts['bytes']}"
            if file_sha256(path / name) != facts["sha256"]:
                return f"{name} does not have the recorded sha256"
        if set(manifest["files"]) != {_TENSORS, _COUNTERS}:
            return f"the manifest names {sorted(manifest['files'])}"
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing"
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        return "the manifest cannot be read"
    differing = [key for key in _differing(recorded, fingerprint) if key not in allow_change]
    if not differing:
        return None
    facts = ", ".join(f"{key} was {recorded.get(key)}, is {fingerprint.get(key)}" for key in differing)
    return (
        f"made under other circumstances ({facts}); to go on all the same: "
        f"{' '.join(f'--allow-change {key}' for key in differing)}"
    )
