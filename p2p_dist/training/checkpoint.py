"""Checkpoints of one run: whole or absent, verified before they are read, free of pickles.

A run's state is its fp32 numbers, the optimiser's moments and a few counters; order and dropout are functions of those,
so there is no generator state to keep. A checkpoint is a folder `step_000200` with `state.safetensors`, `state.json`
and, written last, `MANIFEST.json` with the size and SHA-256 of both (reference: single bit flips pass every common
format unseen).
"""

import errno
import os
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from p2p_dist.assets import file_sha256
from p2p_dist.errors import Exit, user_error
from p2p_dist.results import atomic, checksums, confined, jsonfile
from p2p_dist.results.folder_handles import Damaged

KEEP = 2
_NAME = re.compile(r"^step_\d{6,}$")
_TENSORS, _COUNTERS, _MANIFEST = "state.safetensors", "state.json", "MANIFEST.json"


@dataclass(frozen=True)
class Counters:
    """Progress of a run."""

    step: Annotated[int, Field(ge=0)]
    samples_seen: Annotated[int, Field(ge=0)]
    tokens: Annotated[int, Field(ge=0)]
    seconds: float
    loss: float
    topologies: tuple[str, ...] = ()
    """The layouts under which it came here (see `Execution.topology`)."""


_COUNTERS_FORM = TypeAdapter(Counters)


@dataclass(frozen=True)
class RunState:
    """State from which a run resumes. Shapes: all tensors [P], fp32; [Q] where the adapter is generated."""

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
    confined.make_folder(folder)
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
        confined.remove_folder(old)


def _bytes(size: int) -> int:
    """Of a checkpoint with [size] numbers: three fp32 vectors and some text."""
    return 3 * 4 * size + 4096


def _mib(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"


def _is_full(error: Exception) -> bool:
    # safetensors reports the system's error as text.
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or f"(os error {errno.ENOSPC})" in str(error)


def _write(target: Path, state: RunState, fingerprint: dict[str, Any]) -> None:
    with atomic.new_folder(target) as unfinished:
        tensors = {"values": state.values, "first_moment": state.first_moment, "second_moment": state.second_moment}
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, unfinished / _TENSORS)
        (unfinished / _COUNTERS).write_bytes(atomic.to_json(asdict(state.counters)))
        files = {
            name: {"bytes": (unfinished / name).stat().st_size, "sha256": file_sha256(unfinished / name)}
            for name in (_TENSORS, _COUNTERS)
        }
        (unfinished / _MANIFEST).write_bytes(atomic.to_json({"fingerprint": fingerprint, "files": files}))


def newest(folder: Path, fingerprint: dict[str, Any], allow_change: Collection[str] = ()) -> Found:
    """The newest checkpoint whose files are what its manifest says and whose fingerprint is this run's, but for what
    may differ (`allow_change`, keys of the fingerprint). Any other is named in `skipped`."""
    skipped: list[str] = []
    for path in _newest_first(folder):
        try:
            recorded = _verified_fingerprint(path)
            state = RunState(_counters(path), **_tensors(path))
        except (Damaged, OSError, SafetensorError) as error:
            skipped.append(f"{path.name}: {error}")
            continue
        differing = _differing(recorded, fingerprint)
        if refused := [key for key in differing if key not in allow_change]:
            skipped.append(f"{path.name}: {_difference(refused, recorded, fingerprint)}")
            continue
        return Found(state, skipped, {key: [recorded.get(key), fingerprint.get(key)] for key in differing})
    return Found(None, skipped)


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    """The numbers of a checkpoint in memory of their own: three fp32 vectors of one length. Raises Damaged."""
    with confined.path_to_open_file(path / _TENSORS) as file:
        tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    shapes = {tuple(tensor.shape) for tensor in tensors.values()}
    if tensors.keys() != {"values", "first_moment", "second_moment"} or len(shapes) != 1 or len(*shapes) != 1:
        raise Damaged(f"{_TENSORS} has other tensors than a checkpoint")
    return tensors


def _counters(path: Path) -> Counters:
    """Counters of a checkpoint. Raises Damaged."""
    content = jsonfile.read_object(path / _COUNTERS)
    try:
        counters = _COUNTERS_FORM.validate_python(content)
    except ValidationError as error:
        raise Damaged(f"{_COUNTERS} has no counters: {error.errors()[0]['msg']}") from error
    if path.name != f"step_{counters.step:06d}":
        raise Damaged(f"{_COUNTERS} counts {counters.step} steps")
    return counters


def _newest_first(folder: Path) -> list[Path]:
    checkpoints = [folder / name for name in confined.names(folder) if _NAME.match(name)]
    return sorted(checkpoints, key=lambda path: int(path.name[5:]), reverse=True)


def counters_of(saved: dict[str, Any]) -> Counters:
    """Counters as they were read from JSON."""
    return Counters(**{**saved, "topologies": tuple(saved.get("topologies", ()))})


def _differing(recorded: dict[str, Any], fingerprint: dict[str, Any]) -> list[str]:
    return sorted(key for key in fingerprint.keys() | recorded.keys() if fingerprint.get(key) != recorded.get(key))


def _verified_fingerprint(path: Path) -> dict[str, Any]:
    """Fingerprint in the manifest of a checkpoint whose files are as the manifest says. Raises Damaged."""
    try:
        manifest = jsonfile.read_object(path / _MANIFEST)
    except FileNotFoundError as error:
        raise Damaged(f"{_MANIFEST} is missing") from error
    except Damaged as error:
        raise Damaged(f"the manifest cannot be read: {error}") from error
    files, recorded = manifest.get("files"), manifest.get("fingerprint")
    if not isinstance(files, dict) or not isinstance(recorded, dict):
        raise Damaged("the manifest cannot be read: it has no files or no fingerprint")
    if set(files) != {_TENSORS, _COUNTERS}:
        raise Damaged(f"the manifest names {sorted(files)}")
    for name, entry in files.items():
        if not isinstance(entry, dict):
            raise Damaged("the manifest cannot be read: a file has no hash")
        _check_file(path / name, entry)
    return recorded


def _check_file(path: Path, entry: Mapping[str, Any]) -> None:
    try:
        with confined.open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
        if size != entry.get("bytes"):
            raise Damaged(f"{path.name} has {size} bytes, expected {entry.get('bytes')}")
        if checksums.sha256_of(path) != entry.get("sha256"):
            raise Damaged(f"{path.name} does not have the recorded sha256")
    except FileNotFoundError as error:
        raise Damaged(f"{path.name} is missing") from error


def _difference(keys: Sequence[str], recorded: Mapping[str, Any], fingerprint: Mapping[str, Any]) -> str:
    changes = ", ".join(f"{key} was {recorded.get(key)}, is {fingerprint.get(key)}" for key in keys)
    allowed = " ".join(f"--allow-change {key}" for key in keys)
    return f"made under other circumstances ({changes}). To resume from it, add {allowed}"
