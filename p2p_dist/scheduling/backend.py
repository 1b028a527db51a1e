"""The contract of a backend: start a gang's ranks as real processes, ask how they are, stop them.

A backend knows nothing of stages. It is given a command, an environment and a log file, so that the same worker runs
under Ray, in a plain subprocess, or by hand. Ranks of a gang of more than one find each other as under torchrun: RANK,
LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar


@dataclass(frozen=True)
class Service:
    """How a job of one rank is done by a worker that stays for other jobs (`p2p_dist.worker.job_loop`)."""

    command: tuple[str, ...]
    """Starts the worker."""
    arguments: tuple[str, ...]
    """What the worker is asked for, as on the command line of a process of its own."""
    told: Mapping[str, str]
    """The part of the environment that is this job's alone."""
    base: str = ""
    """What the worker had better have loaded: jobs of one base follow each other where that costs no waiting."""


@dataclass(frozen=True)
class Gang:
    """One job's ranks. `cpus` and `gpus` are per rank, `ranks` are spread evenly over `nodes`. `environment` is added
    to the parent's; secrets are inherited and never in here. With a `service`, a worker that stays may do it."""

    command: tuple[str, ...]
    log: Path
    cpus: int
    gpus: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    ranks: int = 1
    nodes: int = 1
    service: Service | None = None

    @property
    def ranks_per_node(self) -> int:
        return self.ranks // self.nodes

    @property
    def seat(self) -> tuple[Any, ...]:
        """What a worker must have been started as to do this gang too. Asked of gangs with a service alone."""
        assert self.service is not None
        shared = {name: value for name, value in self.environment.items() if name not in self.service.told}
        return self.service.command, self.cpus, self.gpus, tuple(sorted(shared.items()))


class Backend(ABC):
    """Base of the backends in `backends/`. One is opened per study and closed at its end."""

    plugin_kind: ClassVar[str] = "backends"

    def __init__(self, cpus: int, gpus: int, address: str | None = None, nodes: int = 1):
        """`cpus` and `gpus` are those of a node; `address` is a cluster of `nodes` that runs already, if the backend
        knows such."""
        self.cpus, self.gpus, self.address, self.nodes = cpus, gpus, address, nodes

    @abstractmethod
    def start(self, gang: Gang) -> str:
        """Start a gang, every rank in its own process group, and return a name for it. Raises UserError E413 for a gang
        that can never be placed."""

    @abstractmethod
    def poll(self, name: str) -> int | None:
        """Exit code (negative for a signal), or None while it runs or waits for its place. When a rank fails, the
        others are stopped and its code is the gang's."""

    @abstractmethod
    def wait(self, names: Collection[str], seconds: float) -> None:
        """Come back as soon as one of these may have ended, or after `seconds` at the latest, and compute nothing
        meanwhile."""

    @abstractmethod
    def ask(self, name: str, number: int) -> None:
        """Send a signal to every rank and come back at once."""

    @abstractmethod
    def stop(self, name: str) -> None:
        """Ask the ranks to end, and end them if they do not within ten seconds."""

    @abstractmethod
    def close(self) -> None:
        """Stop what is left of what this backend started, and nothing else."""
