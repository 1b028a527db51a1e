"""The contract of a backend: start a gang's worker as a real process, ask how it is, stop it.

A backend knows nothing of stages. It is given a command, an environment and a log file, so that the same worker runs
under Ray, in a plain subprocess, or by hand.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar


@dataclass(frozen=True)
class Gang:
    """One worker to start. `environment` is added to the parent's; secrets are inherited and never in here."""

    command: tuple[str, ...]
    log: Path
    cpus: int
    gpus: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)


class Backend(ABC):
    """Base of the backends in `backends/`. One is opened per study and closed at its end."""

    plugin_kind: ClassVar[str] = "backends"

    def __init__(self, cpus: int, gpus: int):
        self.cpus, self.gpus = cpus, gpus

    @abstractmethod
    def start(self, gang: Gang) -> str:
        """Start a worker in its own process group and return a name for it."""

    @abstractmethod
    def poll(self, name: str) -> int | None:
        """Exit code (negative for a signal), or None while it runs."""

    @abstractmethod
    def stop(self, name: str) -> None:
        """Ask the worker's group to end, and end it if it does not within ten seconds."""

    @abstractmethod
    def close(self) -> None:
        """Stop what is left of what this backend started, and nothing else."""
