"""The contract of a backend: start the ranks of a process group, poll them, stop them.

A backend knows nothing of stages. It is given a command, an environment and a log file, so that the same worker runs
under Ray, in a plain subprocess, or by hand. The ranks of a group find each other as under torchrun: RANK, LOCAL_RANK,
WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar


@dataclass(frozen=True)
class Service:
    """A job of one rank for a warm worker, which takes one job after the other (`p2p_dist.worker.job_loop`)."""

    command: tuple[str, ...]
    """Command that starts the worker."""
    arguments: tuple[str, ...]
    """The job, as on the command line of a fresh process."""
    job_environment: Mapping[str, str]
    """Variables that belong to this job and not to the worker, such as its lease."""
    base: str = ""
    """The base model that the job loads; a worker that holds it already is preferred."""


@dataclass(frozen=True)
class ProcessGroup:
    """The ranks of one job. `cpus` and `gpus` are per rank, `ranks` are spread evenly over `nodes`. `environment` is
    added to the parent's; secrets are inherited and never in here. With a `service`, a warm worker may do the job."""

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
    def worker_key(self) -> tuple[Any, ...]:
        """Command, devices and environment that a warm worker must have to take this job. Needs a `service`."""
        assert self.service is not None
        shared = {name: value for name, value in self.environment.items() if name not in self.service.job_environment}
        return self.service.command, self.cpus, self.gpus, tuple(sorted(shared.items()))


class Backend(ABC):
    """Base of the backends in `backends/`. One is opened per study and closed at its end."""

    plugin_kind: ClassVar[str] = "backends"

    def __init__(self, cpus: int, gpus: int, address: str | None = None, nodes: int = 1):
        """`cpus` and `gpus` are those of a node; `address` is a running cluster of `nodes`, for backends that join
        one."""
        self.cpus, self.gpus, self.address, self.nodes = cpus, gpus, address, nodes

    @abstractmethod
    def start(self, group: ProcessGroup) -> str:
        """Start the ranks, each in a session of its own, and return a name for the group. Raises UserError E413 for a
        group that can never be placed."""

    @abstractmethod
    def poll(self, name: str) -> int | None:
        """Exit code (negative for a signal), or None while the group runs or is pending. When a rank fails, the
        others are stopped, and `process.group_code` is the group's."""

    def has_started(self, name: str) -> bool:
        """False while a group waits for a place."""
        return True

    @abstractmethod
    def wait(self, names: Collection[str], seconds: float) -> None:
        """Sleep until one of these groups may have ended, at most `seconds`."""

    @abstractmethod
    def send_signal(self, name: str, number: int) -> None:
        """Send a signal to every rank without waiting for its effect."""

    @abstractmethod
    def stop(self, name: str) -> None:
        """Terminate the ranks; kill those that still run after ten seconds."""

    def quarantine(self, name: str) -> Sequence[str]:
        """Names of the devices that this backend keeps out of use since the group ended with a device fault: those of
        the ranks that ended with it."""
        return ()

    def give_back(self, name: str) -> None:  # noqa: B027  # a backend that keeps no device has nothing to do
        """Use the devices again that are out of use since the group ended."""

    @abstractmethod
    def close(self) -> None:
        """Stop everything that this backend started and that still runs, and nothing else."""
