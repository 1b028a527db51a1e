"""Jobs of a study by state, as the scheduler leaves them after every step of its loop."""

from dataclasses import dataclass, field
from pathlib import Path

from p2p_dist.planning.jobs import Job


@dataclass(frozen=True)
class Failure:
    """A job that failed for good, with the last lines of its log."""

    job: Job
    reason: str
    log: Path
    tail: list[str]


@dataclass
class Tries:
    """Outcome of the attempts at one job so far."""

    number: int = 0
    fruitless: int = 0
    reached: tuple[str, ...] = ()
    micro_batch: int | None = None
    gradient_checkpointing: bool = False
    log: Path = Path()
    stalled: float | None = None
    """Time at which the job was found stalled, on the monotonic clock."""


@dataclass
class State:
    """Jobs of a study by state. The progress view reads it."""

    waiting: list[Job]
    running: dict[str, Job] = field(default_factory=dict)
    done: list[Job] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    blocked: list[Job] = field(default_factory=list)
    """Jobs, or parts of jobs, that need a stage which failed."""
    tries: dict[str, Tries] = field(default_factory=dict)
