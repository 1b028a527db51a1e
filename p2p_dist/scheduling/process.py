"""The processes of one group on one node, for every backend: start each in its own session, poll, signal, stop."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from p2p_dist.errors import Exit
from p2p_dist.results import confined

PARENT = "P2P_DIST_PARENT"
STOP_SECONDS = 10.0
POLL_SECONDS = 0.01
"""Interval between two polls of a process; its slot stays idle until its end is noticed."""


class Processes(ABC):
    """Processes of one group on this node, each the leader of its own session."""

    def __init__(self, processes: Sequence[subprocess.Popen[bytes]]):
        self.processes = processes

    @abstractmethod
    def poll(self) -> int | None:
        """None while the group runs; then its exit code, negative for a signal."""

    def send_signal(self, number: int) -> None:
        """Send a signal to the group of every process that runs."""
        for process in self.processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)

    def stop(self) -> None:
        """SIGTERM to every group, then SIGKILL to what is left."""
        deadline = time.monotonic() + STOP_SECONDS
        for number, until in ((signal.SIGTERM, deadline), (signal.SIGKILL, deadline + STOP_SECONDS)):
            self.send_signal(number)
            while any(process.poll() is None for process in self.processes):
                if time.monotonic() > until:
                    break
                time.sleep(0.05)


class RankProcesses(Processes):
    """Ranks `first` to `first + count - 1` of a group of `world`. A world of one is an ordinary process.

    When one rank ends with an error the others are terminated, so that none blocks on a dead peer.
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
        for index in range(count):
            numbers = rank_environment(first + index, index, count, world) if world > 1 else {}
            started.append(start(command, {**environment, **numbers}, log_of(log, first + index)))
        super().__init__(started)
        note_host(log, first, count)

    def poll(self) -> int | None:
        """None while any rank runs; then 0, or the code of `group_code`."""
        codes = [process.poll() for process in self.processes]
        self.failure = group_code(self.failure, codes)
        if None not in codes:
            return self.failure or 0
        if self.failure is not None and self.deadline is None:
            self.deadline = time.monotonic() + STOP_SECONDS
            self.send_signal(signal.SIGTERM)
        if self.deadline is not None and time.monotonic() > self.deadline:
            self.send_signal(signal.SIGKILL)
        return None

    def faulty(self) -> list[int]:
        """Local numbers of the ranks that ended with a device fault."""
        return [index for index, process in enumerate(self.processes) if process.poll() == Exit.DEVICE]


def group_code(failure: int | None, codes: Sequence[int | None]) -> int | None:
    """Exit code of a group of which some rank failed, else None. `failure`: the code so far; `codes`: of the ranks that
    have ended.

    The first failure counts, because the others follow from it, with two exceptions: a device fault of any rank, also a
    later one, may be the cause of the first; and a stop before any failure was requested and stays a stop.
    """
    failed = [code for code in codes if code]
    if failure == Exit.REQUEUE or (failure is None and Exit.REQUEUE in failed):
        return Exit.REQUEUE
    return Exit.DEVICE if Exit.DEVICE in failed else failure or next(iter(failed), None)


def rank_environment(rank: int, local: int, count: int, world: int) -> dict[str, str]:
    """Rank variables as torchrun sets them."""
    return {"RANK": str(rank), "LOCAL_RANK": str(local), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(count)}


def log_of(log: Path, rank: int) -> Path:
    """Log file of a rank; rank 0 writes the group's."""
    return log if rank == 0 else log.with_name(f"{log.name}.rank{rank}")


def meeting_point(host: str) -> dict[str, str]:
    """Rendezvous address of a group: this host and a port that is free now. Workers meet at the port that their rank 0
    opens, in case another program has taken this one meanwhile (`training.ranks`)."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return {"MASTER_ADDR": host, "MASTER_PORT": str(probe.getsockname()[1])}


def note_host(log: Path, first: int, count: int) -> None:
    """Record beside the log which ranks ran on this host."""
    confined.append(log.with_name("hosts"), f"{socket.gethostname()} {first}-{first + count - 1}\n".encode())


def start(
    command: Sequence[str], environment: Mapping[str, str], log: Path, talks: bool = False
) -> subprocess.Popen[bytes]:
    """Start a worker that ends with this process, without Ray's own variables. With `talks` its standard input and
    output are pipes and only standard error goes into the log."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    with confined.open_to_append(log) as output:
        return subprocess.Popen(
            list(command),
            env={**inherited, **environment, PARENT: str(os.getpid())},
            stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
            stdout=subprocess.PIPE if talks else output,
            stderr=output if talks else subprocess.STDOUT,
            start_new_session=True,
            bufsize=0,
        )
