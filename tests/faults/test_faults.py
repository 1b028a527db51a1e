"""Real studies, real processes, real kills: each ends with the bytes of an undisturbed run."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from p2p_dist.errors import Exit
from p2p_dist.results.lease import owner
from p2p_dist.scheduling.ray_local_cluster import PREFIX
from tests.e2e.test_resume import OPTIONS, steps, whole  # noqa: F401  # a fixture
from tests.e2e.test_study import _processes_naming, _wait_for, cli, command
from tests.outcomes import assert_same
from tests.ray_head import ray_head

pytestmark = pytest.mark.usefixtures("with_data", "none_left")
RAY = tuple("ray" if option == "local" else option for option in OPTIONS)
IMPATIENT = (
    "from p2p_dist.results import lease; lease.HEARTBEAT_SECONDS = 0.3; from p2p_dist.cli.main import app; app()"
)
HASTY = (
    "from p2p_dist.scheduling import ray_gcs as s; s.PROBE_SECONDS = 0.2; s.SILENT_SECONDS = 0.5; from "
    "p2p_dist.cli.main import app; app()"
)

STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture
def none_left() -> Iterator[None]:
    """Whatever a failed test leaves running or frozen is ended, so that it fails alone."""
    yield
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            process.kill()
        process.communicate()


def start(study: Path, runs: Path, *options: str) -> subprocess.Popen[str]:
    return _launch(command(study, runs, *options))


def impatient(study: Path, runs: Path) -> subprocess.Popen[str]:
    """A controller whose heart beats three times a second, and who waits for others' as long."""
    line = [sys.executable, "-c", IMPATIENT, *command(study, runs, *OPTIONS)[3:]]
    return _launch(line)


def _launch(line: list[str]) -> subprocess.Popen[str]:
    STARTED.append(subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
    return STARTED[-1]


def workers(runs: Path) -> list[int]:
    return [pid for pid, line in _processes_naming(str(runs)).items() if "p2p_dist.worker" in line]


def reasons(runs: Path) -> set[str]:
    return {json.loads(path.read_text())["reason"] for path in runs.rglob("exit.json")}


def ray_process(controller: int, name: str) -> int:
    """The process of a controller's own Ray instance with this name."""
    folder = f"/tmp/{PREFIX}{controller}-"
    return next(pid for pid, line in _processes_naming(folder).items() if line.split()[0].endswith(name))


def test_a_frozen_worker_is_found_and_the_run_goes_on(whole: Any, tmp_path: Path) -> None:  # noqa: F811
    study, expected = whole
    controller = start(study, tmp_path, *OPTIONS, "--stall-after", "20")
    _wait_for(lambda: steps(tmp_path) > 45, 120)
    for pid in workers(tmp_path):
        os.kill(pid, signal.SIGSTOP)
    _, said = controller.communicate(timeout=240)
    assert controller.returncode == Exit.OK, said
    assert "made no progress" in reasons(tmp_path)
    assert_same(tmp_path, expected)


def test_frozen_controller_is_taken_over_and_gives_up(whole: Any, tmp_path: Path) -> None:  # noqa: F811
    """Controller and worker frozen together, as when a machine is suspended: alone, the worker would end the work
    meanwhile."""
    study, expected = whole
    first = impatient(study, tmp_path)
    _wait_for(lambda: steps(tmp_path) > 25, 120)
    frozen = [first.pid, *workers(tmp_path)]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(3)
    second = impatient(study, tmp_path)
    _wait_for(lambda: f"process {second.pid} " in str(owner(tmp_path / "long" / "lease")), 60)
    for pid in frozen:
        os.kill(pid, signal.SIGCONT)
    _, said = first.communicate(timeout=120)
    assert first.returncode == Exit.OWNED
    assert "E411" in said
    _, said = second.communicate(timeout=240)
    assert second.returncode == Exit.OK, said
    assert_same(tmp_path, expected)


def test_stopped_study_leaves_checkpoints_and_resumes(whole: Any, tmp_path: Path) -> None:  # noqa: F811
    study, expected = whole
    controller = start(study, tmp_path, *RAY)
    _wait_for(lambda: steps(tmp_path) > 25, 120)
    controller.send_signal(signal.SIGUSR1)
    _, said = controller.communicate(timeout=120)
    assert controller.returncode == Exit.REQUEUE, said
    assert "E412" in said
    assert list(tmp_path.rglob("checkpoints/step_*"))
    assert not _processes_naming(str(tmp_path))
    done = cli(study, tmp_path, *RAY)
    assert done.returncode == Exit.OK, done.stderr
    assert_same(tmp_path, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_dead_ray_daemon_ends_the_study_and_restart_resumes(whole: Any, tmp_path: Path, name: str) -> None:  # noqa: F811
    """With its only node or its control store gone, an own Ray instance cannot go on (Ray itself ends the controller a
    minute after the store is gone); nothing is lost, nothing is left."""
    study, expected = whole
    controller = start(study, tmp_path, *RAY)
    _wait_for(lambda: steps(tmp_path) > 45, 120)
    os.kill(ray_process(controller.pid, name), signal.SIGKILL)
    _, said = controller.communicate(timeout=180)
    if controller.returncode != Exit.OK:
        _wait_for(lambda: not _processes_naming(str(tmp_path)), 60)
        done = cli(study, tmp_path, *RAY)
        assert done.returncode == Exit.OK, said + done.stderr
    assert_same(tmp_path, expected)


@pytest.mark.slow
def test_lost_gcs_ends_the_study_and_another_cluster_resumes(whole: Any, tmp_path: Path) -> None:  # noqa: F811
    study, expected = whole
    with ray_head() as head:
        controller = start(study, tmp_path, *RAY, "--address", head.address)
        _wait_for(lambda: steps(tmp_path) > 45, 120)
        (store,) = [
            pid for pid, line in _processes_naming(str(head.folder)).items() if line.split()[0].endswith("gcs_server")
        ]
        os.kill(store, signal.SIGKILL)
        _, said = controller.communicate(timeout=240)
    assert (controller.returncode, "E417" in said) == (Exit.REQUEUE, True), said
    _wait_for(lambda: not workers(tmp_path), 60)
    with ray_head() as head:
        done = cli(study, tmp_path, *RAY, "--address", head.address)
    assert done.returncode == Exit.OK, done.stderr
    assert_same(tmp_path, expected)


@pytest.mark.slow
def test_gcs_dying_at_every_start_reaches_the_restart_limit(whole: Any, tmp_path: Path) -> None:  # noqa: F811
    """The worker is frozen before the store is killed, so that none of these starts gets any further."""
    study, expected = whole
    assert cli(study, tmp_path, *RAY[:2], verb="data").returncode == Exit.OK
    ends = []
    for _ in range(3):
        controller = _launch([sys.executable, "-c", HASTY, *command(study, tmp_path, *RAY)[3:]])
        _wait_for(lambda: workers(tmp_path), 90)
        for pid in workers(tmp_path):
            os.kill(pid, signal.SIGSTOP)
        os.kill(ray_process(controller.pid, "gcs_server"), signal.SIGKILL)
        _, said = controller.communicate(timeout=180)
        ends.append((controller.returncode, "E417" in said, "E418" in said))
        _wait_for(lambda: not _processes_naming(str(tmp_path)), 60)
    assert ends == [(Exit.REQUEUE, True, False), (Exit.REQUEUE, True, False), (Exit.SOME_FAILED, True, True)]
    done = cli(study, tmp_path, *RAY)
    assert done.returncode == Exit.OK, done.stderr
    assert_same(tmp_path, expected)
