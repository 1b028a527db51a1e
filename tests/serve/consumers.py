"""Programs of others that use an export: where they are installed, and servers of theirs as processes."""

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VENVS = Path(os.environ.get("P2P_DIST_SERVE_VENVS", ROOT / ".venv-serve"))
_ASK = Path(__file__).with_name("ask.py")
_LONGEST_START = 400
"""Seconds; importing vLLM takes a minute on a busy machine."""
VLLM: Mapping[str, str] = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "DO_NOT_TRACK": "1"}


def needs(group: str) -> pytest.MarkDecorator:
    """Skip tests where the programs of a list (`harness`, `vllm`) are not installed."""
    missing = not (VENVS / group / "installed.txt").is_file()
    return pytest.mark.skipif(
        missing, reason=f"{group} is not installed: tests/serve/install.sh installs it, or says why"
    )


def environment(group: str, **more: str) -> dict[str, str]:
    """Environment variables with the programs of a group on the path, and no hub."""
    path = f"{VENVS / group / 'bin'}{os.pathsep}{os.environ['PATH']}"
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return {**inherited, "PATH": path, "HF_HUB_OFFLINE": "1", **more}


@dataclass(frozen=True)
class Server:
    """A running server: its group and its address."""

    group: str
    url: str

    def ask(self, messages: Sequence[object], **settings: object) -> list[str | int]:
        """Answers of the `openai` client, or statuses of errors. Shape: messages [request][message]."""
        lines = "".join(json.dumps(one) + "\n" for one in messages)
        command = [VENVS / self.group / "bin" / "python", _ASK, f"{self.url}/v1", json.dumps(settings)]
        done = subprocess.run(
            command, input=lines, capture_output=True, text=True, timeout=600, env=environment(self.group)
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]


@contextmanager
def serving(group: str, script: Path, log: Path, *options: str, **variables: str) -> Iterator[Server]:
    """A server started by a script of an export, until the end of the block. Its output goes to `log`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = ["sh", str(script), "--port", str(port), *options]
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment(group, **variables), stdout=output, stderr=output)
    try:
        _await(f"http://127.0.0.1:{port}/health", process, log)
        yield Server(group, f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(60)


def _await(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(_LONGEST_START):
        try:
            urllib.request.urlopen(url, timeout=10).close()
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            if process.poll() is not None:
                pytest.fail(f"the server has ended:\n{log.read_text()[-3000:]}")
            time.sleep(1)
    pytest.fail(f"the server has not answered for {_LONGEST_START} seconds:\n{log.read_text()[-3000:]}")
