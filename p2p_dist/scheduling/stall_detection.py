"""Stall detection from the files of running jobs: their newest write and their progress."""

import time
from pathlib import Path

from p2p_dist.planning.jobs import Job
from p2p_dist.results.rundir import RunDir


class StallDetector:
    """Watches running groups by name. File times are compared with each other only; waiting is measured on the
    monotonic clock of this process."""

    def __init__(self, folder: RunDir, stall_seconds: float):
        self.folder, self.stall_seconds = folder, stall_seconds
        self._seen: dict[str, tuple[int, float]] = {}

    def begin(self, name: str) -> None:
        """Start watching a group."""
        self._seen[name] = (0, time.monotonic())

    def is_stalled(self, name: str, job: Job, log: Path) -> bool:
        """True when none of a job's files has changed for `stall_seconds`."""
        newest = max((_stamp(path) for path in [log, *self._watched_files(job)]), default=0)
        before, since = self._seen[name]
        if newest != before:
            self._seen[name] = (newest, time.monotonic())
            return False
        return time.monotonic() - since > self.stall_seconds

    def reached(self, job: Job) -> tuple[str, ...]:
        """Progress that the next attempt can resume from: finished stages and newest checkpoints."""
        return tuple(self.folder.find(id_).reached() for id_ in job.stages)

    def _watched_files(self, job: Job) -> list[Path]:
        stages = [self.folder.find(id_) for id_ in job.stages]
        return [path for stage in stages for path in (stage.metrics, stage.checkpoints, stage.path)]


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
