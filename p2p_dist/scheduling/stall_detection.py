"""What the files of running jobs say: how far they are and whether they move."""

import time
from pathlib import Path

from p2p_dist.planning.jobs import Job
from p2p_dist.results.rundir import RunDir


class Watch:
    """Looks after running gangs by name. Times of files are compared with each other only; patience is our own
    clock."""

    def __init__(self, folder: RunDir, stall_seconds: float):
        self.folder, self.stall_seconds = folder, stall_seconds
        self._seen: dict[str, tuple[int, float]] = {}

    def begin(self, name: str) -> None:
        """A gang was started."""
        self._seen[name] = (0, time.monotonic())

    def stands_still(self, name: str, job: Job, log: Path) -> bool:
        """Whether none of a job's files has changed for `stall_seconds`."""
        newest = max((_stamp(path) for path in [log, *self._signs(job)]), default=0)
        before, since = self._seen[name]
        if newest != before:
            self._seen[name] = (newest, time.monotonic())
            return False
        return time.monotonic() - since > self.stall_seconds

    def reached(self, job: Job) -> tuple[str, ...]:
        """How far a job is, as far as the next attempt can go on from there: finished stages and newest checkpoints."""
        return tuple(self.folder.find(id_).reached() for id_ in job.stages)

    def _signs(self, job: Job) -> list[Path]:
        stages = [self.folder.find(id_) for id_ in job.stages]
        return [path for stage in stages for path in (stage.metrics, stage.checkpoints, stage.path)]


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
