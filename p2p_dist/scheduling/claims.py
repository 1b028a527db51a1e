"""Whose a job is: everything is mine while I hold the study, or every job has a lease of its own and many share the
work."""

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
"""How long a sharer waits for another one to have written the study down."""


class Claims(ABC):
    """Asked before a job starts and after it ended."""

    shared = False

    @abstractmethod
    def take(self, job: Job) -> Mapping[str, str] | None:
        """The environment under which its worker may commit, or None when somebody else has the job."""

    @abstractmethod
    def give(self, job: Job) -> None:
        """The job's attempt has ended."""

    @abstractmethod
    def check(self) -> None:
        """Raises UserError E411 when something that was taken has been taken over."""


class Sole(Claims):
    """One controller has the whole study."""

    def __init__(self, held: Lease):
        self.held = held

    def take(self, job: Job) -> Mapping[str, str] | None:
        return self.held.environment

    def give(self, job: Job) -> None:
        return

    def check(self) -> None:
        self.held.check()


class Shared(Claims):
    """Every job is taken by itself; jobs of a controller that dies are free again."""

    shared = True

    def __init__(self, folder: RunDir):
        self.folder = folder
        self.held: dict[str, Lease] = {}

    def take(self, job: Job) -> Mapping[str, str] | None:
        try:
            self.held[job.lead] = lease.take(self.folder.find(job.lead).lease)
        except UserError:
            return None
        return self.held[job.lead].environment

    def give(self, job: Job) -> None:
        self.held.pop(job.lead).release()

    def check(self) -> None:
        for held in list(self.held.values()):
            held.check()

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Keep what is held fresh while the block runs; give it all back at its end."""
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
    """Hold the study for a moment, after other sharers that do the same. Raises UserError E406 when one works on it
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
    """Raises UserError E406 when jobs of the study are taken one by one by others."""
    if working := lease.job_owners(folder.path):
        raise user_error(
            "E406",
            f"{working[0]} works on jobs of this study",
            str(folder.path),
            "share the work with --share, or wait",
            Exit.OWNED,
        )
