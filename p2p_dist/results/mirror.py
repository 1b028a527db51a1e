"""Copies of a study's curves and rates for other people's dashboards. The files of the study stay the truth: a mirror is written
from them when it is asked for, during a study or after it, and can be thrown away.
"""

import importlib
import importlib.util
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from p2p_dist.errors import user_error
from p2p_dist.results.collect import Collected, RunState
from p2p_dist.results.rundir import RunDir


@dataclass(frozen=True)
class Curve:
    """One run: where it stands in the grid, its metrics by step, and its rates when it has been evaluated."""

    name: str
    config: Mapping[str, str]
    steps: list[tuple[int, dict[str, float]]]
    rates: Mapping[str, float]


class Mirror(ABC):
    """Base of the mirrors in `mirrors/`. `package` is what `pip install` calls it, `module` what Python does."""

    plugin_kind: ClassVar[str] = "mirrors"
    package: ClassVar[str]
    module: ClassVar[str]

    def __init__(self, place: Path, study: str):
        self.place, self.study = place, study

    @abstractmethod
    def write(self, curve: Curve) -> None:
        """Copy one run into `place`, and wait until it is there."""


def copy(folder: RunDir, found: Collected, mirror: type[Mirror], place: Path) -> int:
    """Write every run that has begun into an empty `place`, which is emptied if an earlier mirror made it. Returns how many.

    A mirror that is killed loses nothing: the next one begins again.
    Raises UserError E512 when the tracker's package is not installed, E513 when something else is at `place`.
    """
    if importlib.util.find_spec(mirror.module) is None:
        raise user_error("E512", f"{mirror.package} is not installed", fix=f"pip install {mirror.package}")
    mark = place / ".p2p-dist-mirror"
    if place.exists() and any(place.iterdir()) and not mark.exists():
        raise user_error("E513", "the folder is not empty and no mirror of ours", str(place), "name another with --out")
    _empty(place, mark)
    writer = mirror(place, found.name)
    curves = list(_curves(folder, found))
    for curve in curves:
        writer.write(curve)
    return len(curves)


def _empty(place: Path, mark: Path) -> None:
    """An empty folder with our mark in it, which is there first and goes last: whoever is killed meanwhile leaves a mirror of ours."""
    place.mkdir(parents=True, exist_ok=True)
    mark.touch()
    for path in place.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path != mark:
            path.unlink()


def _curves(folder: RunDir, found: Collected) -> Iterator[Curve]:
    for run in found.runs:
        train = folder.at("train", run.ids.get("train") or "")
        steps = [(int(line["step"]), _numbers(line)) for line in train.all_metrics() if "step" in line]
        if steps or run.rates:
            yield Curve(_name(run), dict(run.cell), steps, {name: rate["rate"] for name, rate in run.rates.items()})


def _numbers(line: Mapping[str, Any]) -> dict[str, float]:
    skipped = ("step", "steps")
    return {
        f"train/{key}": float(value) for key, value in line.items() if key not in skipped and isinstance(value, int | float) and not isinstance(value, bool)
    }


def _name(run: RunState) -> str:
    return "-".join("".join(char if char.isalnum() or char in "._" else "_" for char in label) for label in run.cell.values())
