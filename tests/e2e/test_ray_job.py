"""A study as a job of a Ray cluster: attached to, survived by a killed client, ended with its own exit code."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2p_dist.errors import Exit
from tests.conftest import TINY_STUDY
from tests.e2e.test_study import _wait_for

pytestmark = pytest.mark.usefixtures("with_data")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ray head with a token, on loopback, as somebody else would have started it; yields its dashboard's address."""
    folder = Path(f"/tmp/p2pjob-{os.getpid()}")
    folder.mkdir(mode=0o700)
    (folder / "token").write_text(secrets.token_hex(32))
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token"), "RAY_USAGE_STATS_ENABLED": "0", "HOME": str(folder)}
    port, dashboard = free_port(), free_port()
    line = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={port}", "--num-cpus=2", "--node-ip-address=127.0.0.1"]
    line += [f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1", f"--temp-dir={folder}/r", "--object-store-memory=100000000"]
    with pytest.MonkeyPatch.context() as patch, (folder / "out").open("wb") as out:
        for name, value in own.items():
            patch.setenv(name, value)
        patch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        head = subprocess.Popen(line, stdout=out, stderr=out, start_new_session=True)
        try:
            _wait_for(lambda: answers(dashboard), 90)
            yield f"http://127.0.0.1:{dashboard}"
        finally:
            head.terminate()
            head.wait(timeout=60)
            subprocess.run(["rm", "-rf", str(folder)], check=False)


def submit(address: str, study: Path, runs: Path) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "p2p_dist", "submit", "ray", str(study), "--address", address, "--runs-dir", str(runs)]
    return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_killed_client_attached_second_and_real_exit_code(cluster: str, tmp_path: Path) -> None:
    study, runs = tmp_path / "study.yaml", tmp_path / "runs"
    study.write_text(TINY_STUDY.replace("[none, p2p]", "[none, {name: p2p, ratio: 0.9}]"))
    first = submit(cluster, study, runs)
    _wait_for(lambda: list(runs.rglob("metrics.jsonl")), 150)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    time.sleep(1)
    second = submit(cluster, study, runs)
    _, said = second.communicate(timeout=240)
    assert "runs already; attached to it" in said
    assert "E205" in said, "the study's own words come through"
    assert second.returncode == Exit.SOME_FAILED, "one run asks for more rows than there are"
    assert len(list(runs.rglob("result.json"))) == 3, "two runs and a floor"
    study.write_text(TINY_STUDY)
    third = submit(cluster, study, runs)
    _, said = third.communicate(timeout=240)
    assert "submitted" in said
    assert third.returncode == Exit.OK, said
    fourth = submit(cluster, study, runs)
    _, said = fourth.communicate(timeout=120)
    assert fourth.returncode == Exit.OK, "nothing left to do"


def test_no_cluster_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(TINY_STUDY)
    done = submit("http://127.0.0.1:9", tmp_path / "study.yaml", tmp_path / "runs")
    _, said = done.communicate(timeout=60)
    assert done.returncode == Exit.USAGE
    assert "error[E140]: no Ray cluster answers" in said
