"""Copies of a study's curves and rates for other people's dashboards. The files of the study stay the truth: a mirror
is written from them when it is asked for, during a study or after it, and can be thrown away.
"""

import importlib
import importlib.util
import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from p2p_dist.errors import user_error
from p2p_dist.results.collect import Collected, RunState
from p2p_dist.results.rundir import RunDir


@dataclass(frozen=True)
class Curve:
    """One run: where it stands in the grid and whether its model collapsed, its metrics by step, and its rates when it
    has been evaluated."""

    name: str
    config: Mapping[str, str]
    steps: list[tuple[int, dict[str, float]]]
    rates: Mapping[str, float]


class Mirror(ABC):
    """Base of the mirrors in `mirrors/`. `package` is what `pip install` calls it, `module` what Python does."""

    plugin_kind: ClassVar[str] = "mirrors"
    package: ClassVar[str]
    module: ClassVar[str]
    environment: ClassVar[Mapping[str, str | None]] = {}
    """Set (None: taken out) before the package is imported, so that it neither writes elsewhere nor reports about
    itself."""

    def __init__(self, place: Path, study: str):
        self.place, self.study = place, study

    @abstractmethod
    def write(self, curve: Curve) -> None:
        """Copy one run into `place`, and wait until it is there."""


def copy(folder: RunDir, found: Collected, mirror: type[Mirror], place: Path) -> int:
    """Write every run that has begun into an empty `place`, which is emptied if an earlier mirror made it. Returns how
    many.

    A mirror that is killed loses nothing: the next one begins again.
    Raises UserError E512 when the tracker's package is not installed, E513 when something else is at `place`.
    """
    written: set[tuple[str, ...]] = set()
    _add(folder, found, _begin(found, mirror, place), written)
    return len(written)


def follow(folder: RunDir, look: Callable[[], Collected], mirror: type[Mirror], place: Path, seconds: float) -> int:
    """The same while a study runs, looked at every `seconds`: each run is written when it is done, and what has begun
    and will not be done when nothing is left to do. Returns how many; raises as `copy` does. Trackers take whole runs,
    so that every one of them can be followed, and none is asked to go on with what a killed mirror left."""
    found = look()
    writer = _begin(found, mirror, place)
    written: set[tuple[str, ...]] = set()
    while any(run.status in ("running", "pending") for run in found.runs):
        _add(folder, found, writer, written, done=True)
        time.sleep(seconds)
        found = look()
    _add(folder, found, writer, written)
    return len(written)


def _begin(found: Collected, mirror: type[Mirror], place: Path) -> Mirror:
    if importlib.util.find_spec(mirror.module) is None:
        raise user_error("E512", f"{mirror.package} is not installed", fix=f"pip install {mirror.package}")
    mark = place / ".p2p-dist-mirror"
    if place.exists() and any(place.iterdir()) and not mark.exists():
        raise user_error("E513", "the folder is not empty and no mirror of ours", str(place), "name another with --out")
    _empty(place, mark)
    for name, value in mirror.environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    return mirror(place, found.name)


def _add(folder: RunDir, found: Collected, writer: Mirror, written: set[tuple[str, ...]], done: bool = False) -> None:
    """Write every run that has begun, or only those that are done, and is not among `written`, which grows."""
    for run in found.runs:
        cell = tuple(run.cell.values())
        if cell not in written and (run.status == "done" or not done) and (curve := _curve(folder, run)):
            writer.write(curve)
            written.add(cell)


def _empty(place: Path, mark: Path) -> None:
    """An empty folder with our mark in it, which is there first and goes last: whoever is killed meanwhile leaves a
    mirror of ours."""
    place.mkdir(parents=True, exist_ok=True)
    mark.touch()
    for path in place.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path != mark:
            path.unlink()


def _curve(folder: RunDir, run: RunState) -> Curve | None:
    """None for a run that has not begun."""
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
