"""The processes of one gang on one node: start them in groups of their own, poll them, stop them. Used by every
backend."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

PARENT = "P2P_DIST_PARENT"
STOP_SECONDS = 10.0
LOOK_SECONDS = 0.01
"""How often to look whether a process has ended: its slot is idle until we know."""


class Processes(ABC):
    """What carries a gang out on one node, every process in a group of its own."""

    def __init__(self, processes: Sequence[subprocess.Popen[bytes]]):
        self.processes = processes

    @abstractmethod
    def poll(self) -> int | None:
        """None while the gang runs; then its exit code, negative for a signal."""

    def ask(self, number: int) -> None:
        """Send a signal to the group of every process that runs."""
        for process in self.processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)

    def stop(self) -> None:
        """SIGTERM to every group, then SIGKILL to what is left."""
        deadline = time.monotonic() + STOP_SECONDS
        for number, until in ((signal.SIGTERM, deadline), (signal.SIGKILL, deadline + STOP_SECONDS)):
            self.ask(number)
            while any(process.poll() is None for process in self.processes):
                if time.monotonic() > until:
                    break
                time.sleep(0.05)


class Ranks(Processes):
    """`count` ranks of a gang of `world`, the first of which has number `first`. One rank of one is an ordinary
    process.

    When one rank ends with an error the others are asked to stop, so that nobody waits for a dead peer for ever.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        count: int = 1,
        first: int = 0,
        world: int = 1,
    ):
        """`environment` has MASTER_ADDR and MASTER_PORT when `world` is more than one (torchrun's names)."""
        self.failure: int | None = None
        self.deadline: float | None = None
        started = []
        for at in range(count):
            numbers = rank_environment(first + at, at, count, world) if world > 1 else {}
            started.append(start(command, {**environment, **numbers}, log_of(log, first + at)))
        super().__init__(started)
        note_host(log, first, count)

    def poll(self) -> int | None:
        """None while any rank runs; then 0, or the code of the rank that failed first (75 only if no rank failed
        otherwise)."""
        codes = [process.poll() for process in self.processes]
        ended = [code for code in codes if code is not None]
        if self.failure is None or self.failure == 0:
            self.failure = next((code for code in ended if code != 0), None)
            if self.failure is not None and len(ended) < len(codes):
                self.deadline = time.monotonic() + STOP_SECONDS
                self.ask(signal.SIGTERM)
        if len(ended) < len(codes):
            if self.deadline is not None and time.monotonic() > self.deadline:
                self.ask(signal.SIGKILL)
            return None
        return self.failure or 0


def rank_environment(rank: int, local: int, count: int, world: int) -> dict[str, str]:
    """What torchrun tells a rank about itself."""
    return {"RANK": str(rank), "LOCAL_RANK": str(local), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(count)}


def log_of(log: Path, rank: int) -> Path:
    """The log of a rank; that of rank 0 is the gang's."""
    return log if rank == 0 else log.with_name(f"{log.name}.rank{rank}")


def meeting_point(host: str) -> dict[str, str]:
    """Where the ranks of a gang meet: this host and a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return {"MASTER_ADDR": host, "MASTER_PORT": str(probe.getsockname()[1])}


def note_host(log: Path, first: int, count: int) -> None:
    """Write down beside the log which ranks this host had."""
    with log.with_name("hosts").open("a") as hosts:
        hosts.write(f"{socket.gethostname()} {first}-{first + count - 1}\n")


def start(
    command: Sequence[str], environment: Mapping[str, str], log: Path, talks: bool = False
) -> subprocess.Popen[bytes]:
    """Start a worker that dies with this process. Ray's own variables are kept from it. One that `talks` has pipes for
    its standard input and output, and everything else it says goes into the log."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    with log.open("ab") as output:
        return subprocess.Popen(
            list(command),
            env={**inherited, **environment, PARENT: str(os.getpid())},
            stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
            stdout=subprocess.PIPE if talks else output,
            stderr=output if talks else subprocess.STDOUT,
            start_new_session=True,
            bufsize=0,
        )
