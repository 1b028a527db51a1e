"""One worker process: start it with its own process group and log, poll it, stop it. Used by every backend."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

PARENT = "P2P_DIST_PARENT"
STOP_SECONDS = 10.0


def start(command: Sequence[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a worker that dies with this process. Ray's own variables are kept from it."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    with log.open("ab") as output:
        return subprocess.Popen(
            list(command),
            env={**inherited, **environment, PARENT: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the worker's group, then SIGKILL."""
    deadline = time.monotonic() + STOP_SECONDS
    for signal_, until in ((signal.SIGTERM, deadline), (signal.SIGKILL, deadline + STOP_SECONDS)):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal_)
        while process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
