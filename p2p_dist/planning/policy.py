"""Scheduling policy: the next jobs to start and the reaction to the end of an attempt. Pure decisions, shared by the
scheduler and the simulator."""

from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass
from typing import Literal

from p2p_dist.errors import Exit
from p2p_dist.planning.jobs import Job

MAX_ATTEMPTS = 3
"""Maximum number of consecutive attempts at a job, or starts of a study, without progress."""
_MEMORY_MARKERS = (
    "OutOfMemoryError",
    "CUDA out of memory",
    "MemoryError",
    "DefaultCPUAllocator: can't allocate memory",
    "not enough memory",
)


def startable(waiting: Iterable[Job], finished: Set[str], fits: Callable[[Job], bool]) -> Iterator[Job]:
    """Yield the jobs to start now, in order: those whose inputs exist, while they fit.

    A job that does not fit holds back all jobs behind it, so that narrow jobs cannot starve a wide one. `fits` is
    called after the previous job was started.
    """
    for job in waiting:
        if job.needs <= finished:
            if not fits(job):
                return
            yield job


@dataclass(frozen=True)
class Ending:
    """End of an attempt. `code`: exit code, negative for a signal; `fruitless`: number of consecutive attempts without
    progress, this one included; `stalled`: it was stopped because it made no progress."""

    code: int
    fruitless: int
    outputs_there: bool
    micro_batch: int = 1
    stalled: bool = False
    out_of_memory: bool = False


@dataclass(frozen=True)
class Decision:
    """Reaction to the end of an attempt: done; retry, with this micro-batch if one is given; or fail the job and all
    that depend on it."""

    action: Literal["done", "retry", "fail"]
    reason: str
    micro_batch: int | None = None


def after_exit(end: Ending) -> Decision:
    """Decide what follows the end of an attempt.

    Kills and stalls are retried while they make progress; a worker that was asked to stop is requeued without counting
    an attempt; out of memory halves the micro-batch and keeps the global batch; any other exit code fails the job,
    because a bug or a bad input would end the same way again.
    """
    if end.code == Exit.OK:
        return Decision("done", "") if end.outputs_there else Decision("fail", "exited with 0 but left no result")
    if end.stalled:
        return _again("made no progress", end)
    if end.code == Exit.REQUEUE:
        return Decision("retry", "stopped on request")
    if end.out_of_memory:
        if end.micro_batch > 1:
            return Decision("retry", f"out of memory with a micro-batch of {end.micro_batch}", end.micro_batch // 2)
        return Decision("fail", "out of memory with a micro-batch of 1")
    if end.code < 0 or end.code > 128:
        return _again(f"killed by signal {-end.code if end.code < 0 else end.code - 128}", end)
    return Decision("fail", f"exit code {end.code}")


def _again(reason: str, end: Ending) -> Decision:
    if end.fruitless < MAX_ATTEMPTS:
        return Decision("retry", reason)
    return Decision("fail", f"{reason}, {end.fruitless} times in a row without progress")


@dataclass(frozen=True)
class Start:
    """A start of a study: its progress as a digest (`reached`), and its number among the consecutive starts that found
    the same progress."""

    reached: str
    number: int


def next_start(before: Start | None, reached: str) -> Start:
    """The next start; counting begins again at 1 after any progress."""
    return Start(reached, before.number + 1 if before is not None and before.reached == reached else 1)


def may_start_again(start: Start, reached: str) -> bool:
    """True if a study that ends early with this progress may be restarted.

    The cause does not matter: a cluster that dies every time and a time limit shorter than loading would both restart
    without end.
    """
    return reached != start.reached or start.number < MAX_ATTEMPTS


def names_memory(lines: list[str]) -> bool:
    """True if the last lines of a log report that memory ran out."""
    return any(marker in line for line in lines for marker in _MEMORY_MARKERS)
