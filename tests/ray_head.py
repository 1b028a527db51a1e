"""A Ray head with a token, on loopback, as somebody else would have started it: with launch/ray_cluster.sh."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.studies import wait_for

SCRIPT = Path(__file__).parents[1] / "launch" / "ray_cluster.sh"


@dataclass(frozen=True)
class Head:
    """`folder` is in the command line of its processes."""

    folder: Path
    address: str
    dashboard: str


@contextmanager
def ray_head() -> Iterator[Head]:
    """While the block runs, the environment is that of a user who has the token."""
    port, dashboard = free_port(), free_port()
    folder = Path(f"/tmp/p2phead-{port}")  # short: Ray puts sockets there
    folder.mkdir(mode=0o700)
    own = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "HOME": str(folder),
        "PORT": str(port),
    }
    line = [str(SCRIPT), "head", "--num-cpus=2", "--node-ip-address=127.0.0.1"]
    line += [f"--dashboard-port={dashboard}", f"--temp-dir={folder}/r", "--object-store-memory=100000000"]
    line += [
        f"--dashboard-agent-listen-port={free_port()}"
    ]  # every Ray of a machine wants the same, and the second one takes no jobs
    with pytest.MonkeyPatch.context() as patch, (folder / "out").open("wb") as out:
        for name, value in own.items():
            patch.setenv(name, value)
        patch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        head = subprocess.Popen(line, stdout=out, stderr=out, start_new_session=True)
        try:
            wait_for(lambda: answers(dashboard), 90)
            assert (folder / "token").stat().st_mode & 0o777 == 0o600
            yield Head(folder, f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}")
        finally:
            head.terminate()
            head.wait(timeout=60)
            shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
