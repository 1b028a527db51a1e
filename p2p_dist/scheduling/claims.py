"""Job ownership: one controller holds the whole study (`Sole`), or several lease jobs one by one (`Shared`)."""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from p2p_dist.errors import Exit, UserError, user_error
from p2p_dist.planning.jobs import Job
from p2p_dist.results import lease
from p2p_dist.results.lease import Lease
from p2p_dist.results.rundir import RunDir

MEET_SECONDS = 60.0
"""Longest wait of a sharer for another one that writes the study down (seconds)."""


class Claims(ABC):
    """Ownership of jobs: taken before a job starts, given back when it has ended."""

    shared = False

    @abstractmethod
    def take(self, job: Job) -> Mapping[str, str] | None:
        """Environment that lets the job's worker commit, or None when another controller has the job."""

    @abstractmethod
    def give(self, job: Job) -> None:
        """Give a job back whose attempt has ended."""

    @abstractmethod
    def check(self) -> None:
        """Check that nothing was taken over. Raises UserError E411."""


class Sole(Claims):
    """Ownership of the whole study by one controller."""

    def __init__(self, held: Lease):
        self.held = held

    def take(self, job: Job) -> Mapping[str, str] | None:
        return self.held.environment

    def give(self, job: Job) -> None:
        return

    def check(self) -> None:
        self.held.check()


class Shared(Claims):
    """Ownership job by job; the jobs of a controller that dies become free."""

    shared = True

    def __init__(self, folder: RunDir):
        self.folder = folder
        self.held: dict[str, Lease] = {}

    def take(self, job: Job) -> Mapping[str, str] | None:
        try:
            self.held[job.claim] = lease.take(self.folder.find(job.claim).lease)
        except UserError as error:
            if error.exit_code != Exit.OWNED:
                raise
            return None
        return self.held[job.claim].environment

    def give(self, job: Job) -> None:
        self.held.pop(job.claim).release()

    def check(self) -> None:
        for held in list(self.held.values()):
            held.check()

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Send heartbeats for all held leases while the block runs; release them at its end."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(lease.HEARTBEAT_SECONDS):
                for held in list(self.held.values()):
                    held.touch()

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            for held in self.held.values():
                held.release()


@contextmanager
def meet(folder: RunDir) -> Iterator[None]:
    """Hold the study briefly, after other sharers that do the same. Raises UserError E406 when a controller has it
    alone."""
    deadline = time.monotonic() + MEET_SECONDS
    while True:
        try:
            with lease.hold(folder.lease):
                yield
            return
        except UserError as error:
            if error.exit_code != Exit.OWNED or time.monotonic() > deadline:
                raise
        time.sleep(0.5)


def refuse_sharers(folder: RunDir) -> None:
    """Refuse a study whose jobs others lease one by one. Raises UserError E406."""
    if owners := lease.job_owners(folder.path):
        raise user_error(
            "E406",
            f"{owners[0]} works on jobs of this study",
            str(folder.path),
            "add --share to share the work, or wait",
            Exit.OWNED,
        )
