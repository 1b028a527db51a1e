"""Tries at a job, as the scheduler wrote them down: where and when each ran, and how it ended."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2p_dist.errors import Problem
from p2p_dist.results import records
from p2p_dist.results.rundir import StageDir


@dataclass(frozen=True)
class Attempt:
    """One try at a job. What nobody saw, or what has not happened yet, is None; times are seconds since 1970."""

    number: int
    stages: tuple[str, ...]
    started: float | None
    ended: float | None
    code: int | None
    placement: Mapping[str, Any]
    reason: str = ""
    """Why it did not end well, in the scheduler's words."""

    @property
    def seconds(self) -> float | None:
        """How long it ran."""
        return None if self.started is None or self.ended is None else self.ended - self.started


def read(stage: StageDir, problems: list[Problem]) -> tuple[Attempt, ...]:
    """The attempts at the job that this stage leads, oldest first; files that are damaged are appended to
    `problems`."""
    return tuple(_attempt(folder, problems) for folder in stage.attempt_folders())


def _attempt(folder: Path, problems: list[Problem]) -> Attempt:
    placed = records.read(folder / "placement.json", records.Placement, problems)
    end = records.read(folder / "exit.json", records.Ending, problems)
    stages = tuple(placed.get("stages", ()))
    return Attempt(
        int(folder.name),
        stages,
        placed.get("started"),
        end.get("ended"),
        end.get("code"),
        placed,
        end.get("reason", ""),
    )
