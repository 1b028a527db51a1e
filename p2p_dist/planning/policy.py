"""What to start next and what to do when a job ends: pure decisions, carried out by the scheduler and by the
simulator."""

from collections.abc import Callable, Collection, Iterable, Iterator, Set
from dataclasses import dataclass
from typing import Literal

from p2p_dist.errors import Exit
from p2p_dist.planning.jobs import Job

MAX_ATTEMPTS = 3
"""Attempts at a job, or starts of a study, in a row that may end without any progress."""
_MEMORY_MARKERS = (
    "OutOfMemoryError",
    "CUDA out of memory",
    "MemoryError",
    "DefaultCPUAllocator: can't allocate memory",
    "not enough memory",
)


def startable(waiting: Iterable[Job], finished: Set[str], fits: Callable[[Job], bool]) -> Iterator[Job]:
    """The jobs to start now, in their order: those whose inputs are there, as long as they fit.

    A job that does not fit holds back all behind it, so that narrow ones do not overtake a wide one for ever. `fits` is
    asked after the job before was started.
    """
    for job in waiting:
        if job.needs <= finished:
            if not fits(job):
                return
            yield job


def hopeless(waiting: Iterable[Job], lost: Collection[str]) -> list[Job]:
    """The jobs that wait for a stage which will never be there."""
    return [job for job in waiting if not job.needs.isdisjoint(lost)]


@dataclass(frozen=True)
class Ending:
    """How an attempt ended. `code` is the exit code, negative for a signal; `fruitless` counts the attempts in a row
    that brought nothing further, this one included; `stalled` says that it was stopped because it did not move."""

    code: int
    fruitless: int
    outputs_there: bool
    micro_batch: int = 1
    stalled: bool = False
    out_of_memory: bool = False


@dataclass(frozen=True)
class Decision:
    """Retry, with this micro-batch if one is given, or give up on the job and all that waits for it."""

    action: Literal["done", "retry", "fail"]
    reason: str
    micro_batch: int | None = None


def after_exit(end: Ending) -> Decision:
    """Kills and stalls are tried again as long as they get further; a worker that was asked to stop is requeued without
    counting; out of memory halves the micro-batch and keeps the global batch; a bug or a bad input would end the same
    way."""
    if end.code == Exit.OK:
        return Decision("done", "") if end.outputs_there else Decision("fail", "exited with 0 but left no result")
    if end.stalled:
        return _again("stood still", end)
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
    return Decision("fail", f"{reason}, {end.fruitless} times without getting further")


@dataclass(frozen=True)
class Start:
    """A start of a study: how far it was (`reached`, a digest), and its number in the row of starts that found it
    there."""

    reached: str
    number: int


def next_start(before: Start | None, reached: str) -> Start:
    """The start that follows: the first of a new row where anything got further since."""
    return Start(reached, before.number + 1 if before is not None and before.reached == reached else 1)


def may_start_again(start: Start, reached: str) -> bool:
    """Whether a study that ends early, and got as far as `reached`, may ask to be started again. What stopped it does
    not matter: a cluster that dies every time and a time limit below what loading takes would both go on for ever."""
    return reached != start.reached or start.number < MAX_ATTEMPTS


def names_memory(lines: list[str]) -> bool:
    """Whether the last lines of a log say that memory ran out."""
    return any(marker in line for line in lines for marker in _MEMORY_MARKERS)
