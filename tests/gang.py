"""Start the ranks of a gang as torchrun would, on this machine."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence


def start(arguments: Sequence[str], world: int, environment: dict[str, str] | None = None) -> list[subprocess.Popen[str]]:
    """One Python process for every rank, on a free port of loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    processes = []
    for rank in range(world):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        variables = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {}), **own}
        processes.append(subprocess.Popen([sys.executable, *arguments], env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    return processes


def run(arguments: Sequence[str], world: int, environment: dict[str, str] | None = None) -> None:
    """Start them and wait; what they said is shown when one fails."""
    processes = start(arguments, world, environment)
    said = [process.communicate(timeout=300)[0] for process in processes]
    for process, text in zip(processes, said, strict=True):
        assert process.returncode == 0, text[-4000:]
