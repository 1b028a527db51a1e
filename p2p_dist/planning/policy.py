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
    "MemoryError",
    "out of memory",
    "_STATUS_ALLOC_FAILED",
    "can't allocate memory",
    "Cannot allocate memory",
    "not enough memory",
)
"""Parts of messages of torch, CUDA and its libraries, NCCL, bitsandbytes and the system."""
_PEER_MARKERS = ("NCCL error", "ncclRemoteError", "ncclSystemError", "DistBackendError", "Connection closed by peer")
"""Parts of messages of a rank that lost another one."""
_FAULT_MARKER = "error[E318]"
_SUSPICION_MARKERS = ("error[E316]", "error[E322]")
"""Errors with the exit code of a device fault that a bug may have caused as well."""


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
    can_recompute: bool = False
    """Gradient checkpointing is off and would save memory."""
    lost_peer: bool = False
    """A rank lost its connection to another one."""
    trains: bool = True
    """A training is left in the job; otherwise nothing of it depends on the micro-batch."""
    alike: int = 0
    """Attempts, each on devices of its own, that the job has ended with a device fault that may be a bug, this one
    included; 0 for a certain fault."""


@dataclass(frozen=True)
class Decision:
    """Reaction to the end of an attempt: done; retry, with this micro-batch if one is given; or fail the job and all
    that depend on it."""

    action: Literal["done", "retry", "fail"]
    reason: str
    micro_batch: int | None = None
    gradient_checkpointing: bool = False
    """Switch it on for the next attempt."""
    give_back: bool = False
    """Use the devices of the job's uncertain faults again."""


def after_exit(end: Ending) -> Decision:
    """Decide what follows the end of an attempt.

    Kills and stalls are retried while they make progress; a worker that was asked to stop is requeued without counting
    an attempt; out of memory in a training halves the micro-batch, keeps the global batch, and in the end adds gradient
    checkpointing, and without a training fails the job; after a device fault another device is tried, unless the job
    failed alike on others; any other exit code fails the job, because a bug or a bad input would end the same way
    again.
    """
    if end.code == Exit.OK:
        return Decision("done", "") if end.outputs_there else Decision("fail", "exited with 0 but left no result")
    if end.code == Exit.DEVICE:
        if end.alike > 1:
            return Decision("fail", "failed alike on other devices too: a bug and no device fault", give_back=True)
        return _again("device fault", end)
    if end.stalled:
        return _again("made no progress", end)
    if end.code == Exit.REQUEUE:
        return Decision("retry", "stopped on request")
    if end.out_of_memory:
        if not end.trains:
            return Decision("fail", "out of memory in an evaluation or a scoring, which no smaller micro-batch helps")
        if end.micro_batch > 1:
            return Decision("retry", f"out of memory with a micro-batch of {end.micro_batch}", end.micro_batch // 2)
        if end.can_recompute:
            return Decision("retry", "out of memory with a micro-batch of 1", 1, gradient_checkpointing=True)
        return Decision("fail", "out of memory with a micro-batch of 1")
    if end.lost_peer:
        return _again("a rank lost another one", end)
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


def names_lost_peer(tails: list[list[str]]) -> bool:
    """True if the logs of all ranks that report an error report the loss of another rank: the last lines of each."""
    failed = [lines for lines in tails if any("Error" in line or "error[" in line for line in lines)]
    return bool(failed) and all(any(marker in line for line in lines for marker in _PEER_MARKERS) for lines in failed)


def names_uncertain_fault(tails: list[list[str]]) -> bool:
    """True if the logs of the ranks report a device fault, and none that could not be a bug: the last lines of each."""
    lines = [line for lines in tails for line in lines]
    return not any(_FAULT_MARKER in line for line in lines) and any(
        marker in line for line in lines for marker in _SUSPICION_MARKERS
    )
