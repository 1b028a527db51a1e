"""A process group of the Ray backend, and what is known of its actors."""

from dataclasses import dataclass, field
from typing import Any

from p2p_dist.scheduling.backend import ProcessGroup


@dataclass
class Placed:
    """A process group and its actors in Ray."""

    group: ProcessGroup
    bundle: dict[str, float]
    placement_group: Any = None
    actors: list[Any] = field(default_factory=list)
    meetings: list[Any] = field(default_factory=list)
    reused: bool = False
    """True when the actor has a warm worker of an earlier group."""
    endings: list[Any] = field(default_factory=list)
    """Futures of each actor's exit code; empty before the ranks were started."""
    codes: list[int | None] = field(default_factory=list)
    """Exit codes received so far."""
    lacking_since: float | None = None
    """Time (monotonic) since which living nodes are too few for it."""
    failure: int | None = None
    """Exit code of the group once a rank has failed."""
    code: int | None = None
    """Exit code of the ended group."""
    holders: dict[str, Any] = field(default_factory=dict)
    """Faulty GPUs, and the actor that keeps each out of use."""

    def awaited(self) -> list[Any]:
        """Futures of the exit codes that have not been received."""
        return [ending for ending, code in zip(self.endings, self.codes, strict=True) if code is None]
