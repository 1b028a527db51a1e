"""Attempts at a job as the scheduler recorded them: placement, times and exit code."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2p_dist.errors import Problem
from p2p_dist.results import records
from p2p_dist.results.rundir import StageDir


@dataclass(frozen=True)
class Attempt:
    """One attempt at a job. Times are seconds since 1970; a value that was not recorded is None."""

    number: int
    stages: tuple[str, ...]
    started: float | None
    ended: float | None
    code: int | None
    placement: Mapping[str, Any]
    reason: str = ""
    """The scheduler's reason for a failure or a retry; empty otherwise."""
    log: str = ""
    """Path of what the job wrote."""

    @property
    def seconds(self) -> float | None:
        """Wall-clock seconds; None while it runs or when an end was not recorded."""
        return None if self.started is None or self.ended is None else self.ended - self.started


def read(stage: StageDir, problems: list[Problem]) -> tuple[Attempt, ...]:
    """Attempts at the job whose lead stage this is, oldest first; damaged files are appended to `problems`."""
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
        str(folder / "log"),
    )
