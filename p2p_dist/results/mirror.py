"""Tracker export: copies of a study's curves and rates for TensorBoard, MLflow, Trackio and Weights & Biases.

The study's own files remain the source of truth. A copy is written from them on request, during a study or after it,
and can be deleted at any time.
"""

import importlib
import importlib.util
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from p2p_dist.errors import user_error
from p2p_dist.results import confined
from p2p_dist.results.collect import Collected, RunState
from p2p_dist.results.rundir import RunDir


@dataclass(frozen=True)
class Curve:
    """One run for a tracker: its cell of the grid (with `collapsed` if it is), metrics by step, and rates once it has
    been evaluated."""

    name: str
    config: Mapping[str, str]
    steps: list[tuple[int, dict[str, float]]]
    rates: Mapping[str, float]


class Mirror(ABC):
    """Base class of the tracker exports in `mirrors/`. `package` is the name for pip, `module` the name for import."""

    plugin_kind: ClassVar[str] = "mirrors"
    package: ClassVar[str]
    module: ClassVar[str]
    environment: ClassVar[Mapping[str, str | None]] = {}
    """Variables to set (None: to remove) before the package is imported, so that it neither writes elsewhere nor sends
    telemetry."""

    def __init__(self, place: Path, study: str):
        self.place, self.study = place, study

    @abstractmethod
    def write(self, curve: Curve) -> None:
        """Copy one run into `place`; return when it is written."""


def copy(folder: RunDir, collected: Collected, mirror: type[Mirror], place: Path) -> int:
    """Write every started run into `place`, which is emptied first if an earlier export made it. Returns their number.

    A killed export loses nothing: the next one starts over.
    Raises UserError E512 when the tracker's package is not installed, E513 when `place` holds other files.
    """
    written: set[tuple[str, ...]] = set()
    _add(folder, collected, _begin(collected, mirror, place), written)
    return len(written)


def follow(folder: RunDir, collect: Callable[[], Collected], mirror: type[Mirror], place: Path, seconds: float) -> int:
    """Export while a study runs, polling it every `seconds`: each run is written when it is done, and unfinished runs
    at the end. Returns their number; raises as `copy` does. Only whole runs are written, which every tracker supports;
    none has to resume the output of a killed export."""
    collected = collect()
    writer = _begin(collected, mirror, place)
    written: set[tuple[str, ...]] = set()
    while any(run.status in ("running", "pending") for run in collected.runs):
        _add(folder, collected, writer, written, done=True)
        time.sleep(seconds)
        collected = collect()
    _add(folder, collected, writer, written)
    return len(written)


def _begin(collected: Collected, mirror: type[Mirror], place: Path) -> Mirror:
    if importlib.util.find_spec(mirror.module) is None:
        raise user_error("E512", f"{mirror.package} is not installed", fix=f"pip install {mirror.package}")
    tag = place / ".p2p-dist-mirror"
    if place.exists() and any(place.iterdir()) and not tag.exists():
        what = "the folder is not empty and was not written by `p2p-dist mirror`"
        raise user_error("E513", what, str(place), "choose another folder with --out")
    _empty(place, tag)
    for name, value in mirror.environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    return mirror(place, collected.name)


def _add(
    folder: RunDir, collected: Collected, writer: Mirror, written: set[tuple[str, ...]], done: bool = False
) -> None:
    """Write every started run, or with `done` every finished one, that is not in `written`, and add it there."""
    for run in collected.runs:
        cell = tuple(run.cell.values())
        if cell not in written and (run.status == "done" or not done) and (curve := _curve(folder, run)):
            writer.write(curve)
            written.add(cell)


def _empty(place: Path, tag: Path) -> None:
    """Empty a folder except for its tag file, which is created first: an export killed here is still recognised."""
    confined.append(tag, b"")
    for path in (place / name for name in confined.names(place)):
        if confined.kind_of(path) == "folder":
            confined.remove_folder(path)
        elif path != tag:
            confined.remove(path)


def _curve(folder: RunDir, run: RunState) -> Curve | None:
    """The curve of a run; None if it has not started."""
    train = folder.at("train", run.ids.get("train") or "")
    steps = [(int(line["step"]), _numbers(line)) for line in train.all_metrics() if "step" in line]
    cell = {**run.cell, "collapsed": "yes"} if run.collapsed else dict(run.cell)
    return (
        Curve(_name(run), cell, steps, {name: rate["rate"] for name, rate in run.rates.items()})
        if steps or run.rates
        else None
    )


def _numbers(line: Mapping[str, Any]) -> dict[str, float]:
    skipped = ("step", "steps")
    return {
        f"train/{key}": float(value)
        for key, value in line.items()
        if key not in skipped and isinstance(value, int | float) and not isinstance(value, bool)
    }


def _name(run: RunState) -> str:
    return "-".join(
        "".join(char if char.isalnum() or char in "._" else "_" for char in label) for label in run.cell.values()
    )
