"""Real studies, real processes, real kills: each ends with the bytes of an undisturbed run."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2p_dist.errors import Exit
from p2p_dist.results.lease import owner
from p2p_dist.scheduling.ray_local_cluster import PREFIX
from tests import in_process
from tests.outcomes import assert_same, results
from tests.ray_head import ray_head
from tests.studies import LONG_OPTIONS as OPTIONS
from tests.studies import FinishedStudy, cli, command, exits, processes_naming, trained_steps, wait_for, workers_of

pytestmark = pytest.mark.usefixtures("with_data", "none_left")
RAY = tuple("ray" if option == "local" else option for option in OPTIONS)
IMPATIENT = (
    "from p2p_dist.results import lease; lease.HEARTBEAT_SECONDS = 0.3; from p2p_dist.cli.main import app; app()"
)
HASTY = (
    "from p2p_dist.scheduling import ray_gcs as s; s.PROBE_SECONDS = 0.2; s.SILENT_SECONDS = 0.5; from "
    "p2p_dist.cli.main import app; app()"
)
WATCHFUL = """
from pathlib import Path
from p2p_dist.cli.main import app
from p2p_dist.scheduling import scheduler
from p2p_dist.scheduling.stall_detection import StallDetector
scheduler.DUMP_SECONDS = 0.5
StallDetector.stall_seconds = property(lambda self: 1 if Path("FROZEN").exists() else 1e9, lambda self, seconds: None)
app()
"""
"""A controller whose workers are stalled after a second while a file is there, and never else."""

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


def start(study: Path, runs: Path, *options: str, code: str | None = None) -> subprocess.Popen[str]:
    """Start a controller, by the code of `python -c` if there is any."""
    line = command(study, runs, *options)
    if code is not None:
        line = [sys.executable, "-c", code, *line[3:]]
    STARTED.append(subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
    return STARTED[-1]


def impatient(study: Path, runs: Path) -> subprocess.Popen[str]:
    """A controller whose heart beats three times a second, and who waits for others' as long."""
    return start(study, runs, *OPTIONS, code=IMPATIENT)


def ray_process(controller: int, name: str) -> int:
    """The process of a controller's own Ray instance with this name."""
    folder = f"/tmp/{PREFIX}{controller}-"
    return next(pid for pid, line in processes_naming(folder).items() if line.split()[0].endswith(name))


def freeze_workers(runs: Path) -> None:
    wait_for(lambda: trained_steps(runs) > 45)
    for pid in workers_of(runs):
        os.kill(pid, signal.SIGSTOP)


def test_a_frozen_worker_is_found_and_the_run_goes_on(undisturbed: FinishedStudy, tmp_path: Path) -> None:
    runs, frozen = tmp_path / "runs", tmp_path / "frozen"
    controller = start(undisturbed.file, runs, *OPTIONS, code=WATCHFUL.replace("FROZEN", str(frozen)))
    freeze_workers(runs)
    frozen.touch()
    wait_for(lambda: "made no progress" in exits(runs, "reason"))
    frozen.unlink()
    _, errors = controller.communicate(timeout=480)
    assert controller.returncode == Exit.OK, errors
    assert_same(runs, results(undisturbed.runs))


@pytest.mark.slow("waits for a stall of 20 s; a watchful controller is the fast witness")
def test_stall_after_finds_a_frozen_worker(undisturbed: FinishedStudy, tmp_path: Path) -> None:
    """The same with `--stall-after`."""
    controller = start(undisturbed.file, tmp_path, *OPTIONS, "--stall-after", "20")
    freeze_workers(tmp_path)
    _, errors = controller.communicate(timeout=480)
    assert controller.returncode == Exit.OK, errors
    assert "made no progress" in exits(tmp_path, "reason")
    assert_same(tmp_path, results(undisturbed.runs))


def test_frozen_controller_is_taken_over_and_gives_up(undisturbed: FinishedStudy, tmp_path: Path) -> None:
    """Controller and worker frozen together, as when a machine is suspended: alone, the worker would end the work
    meanwhile."""
    first = impatient(undisturbed.file, tmp_path)
    wait_for(lambda: trained_steps(tmp_path) > 25)
    frozen = [first.pid, *workers_of(tmp_path)]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(3)  # ten heartbeats of the one that is frozen
    second = impatient(undisturbed.file, tmp_path)
    wait_for(lambda: f"process {second.pid} " in str(owner(tmp_path / "long" / "lease")))
    for pid in frozen:
        os.kill(pid, signal.SIGCONT)
    _, errors = first.communicate(timeout=480)
    assert first.returncode == Exit.OWNED
    assert "E411" in errors
    _, errors = second.communicate(timeout=480)
    assert second.returncode == Exit.OK, errors
    assert_same(tmp_path, results(undisturbed.runs))


TWICE = pytest.mark.slow("starts Ray twice; the local backend is the fast witness")


@pytest.mark.parametrize("options", [OPTIONS, pytest.param(RAY, marks=TWICE)], ids=["local", "ray"])
def test_stopped_study_leaves_checkpoints_and_resumes(
    undisturbed: FinishedStudy, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """Asked to stop by a signal to its controller."""
    controller = start(undisturbed.file, tmp_path, *options)
    wait_for(lambda: trained_steps(tmp_path) > 25)
    controller.send_signal(signal.SIGUSR1)
    _, errors = controller.communicate(timeout=480)
    assert controller.returncode == Exit.REQUEUE, errors
    assert "E412" in errors
    assert list(tmp_path.rglob("checkpoints/step_*"))
    assert not processes_naming(str(tmp_path))
    again = cli if options == RAY else in_process.cli
    done = again(undisturbed.file, tmp_path, *options)
    assert done.returncode == Exit.OK, done.stderr
    assert_same(tmp_path, results(undisturbed.runs))


@pytest.mark.slow("starts Ray twice, and Ray takes a minute to end")
@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_dead_ray_daemon_ends_the_study_and_restart_resumes(
    undisturbed: FinishedStudy, tmp_path: Path, name: str
) -> None:
    """With its only node or its control store gone, an own Ray instance cannot go on (Ray itself ends the controller a
    minute after the store is gone); nothing is lost, nothing is left."""
    study, expected = undisturbed.file, results(undisturbed.runs)
    controller = start(study, tmp_path, *RAY)
    wait_for(lambda: trained_steps(tmp_path) > 45, 120)
    os.kill(ray_process(controller.pid, name), signal.SIGKILL)
    _, errors = controller.communicate(timeout=180)
    if controller.returncode != Exit.OK:
        wait_for(lambda: not processes_naming(str(tmp_path)), 60)
        done = cli(study, tmp_path, *RAY)
        assert done.returncode == Exit.OK, errors + done.stderr
    assert_same(tmp_path, expected)


@pytest.mark.slow("starts two Ray clusters")
def test_lost_gcs_ends_the_study_and_another_cluster_resumes(undisturbed: FinishedStudy, tmp_path: Path) -> None:
    study, expected = undisturbed.file, results(undisturbed.runs)
    with ray_head() as head:
        controller = start(study, tmp_path, *RAY, "--address", head.address)
        wait_for(lambda: trained_steps(tmp_path) > 45, 120)
        (store,) = [
            pid for pid, line in processes_naming(str(head.folder)).items() if line.split()[0].endswith("gcs_server")
        ]
        os.kill(store, signal.SIGKILL)
        _, errors = controller.communicate(timeout=240)
    assert (controller.returncode, "E417" in errors) == (Exit.REQUEUE, True), errors
    wait_for(lambda: not workers_of(tmp_path), 60)
    with ray_head() as head:
        done = cli(study, tmp_path, *RAY, "--address", head.address)
    assert done.returncode == Exit.OK, done.stderr
    assert_same(tmp_path, expected)


@pytest.mark.slow("starts Ray four times")
def test_gcs_dying_at_every_start_reaches_the_restart_limit(undisturbed: FinishedStudy, tmp_path: Path) -> None:
    """The worker is frozen before the store is killed, so that none of these starts gets any further."""
    study, expected = undisturbed.file, results(undisturbed.runs)
    assert cli(study, tmp_path, *RAY[:2], verb="data").returncode == Exit.OK
    ends = []
    for _ in range(3):
        controller = start(study, tmp_path, *RAY, code=HASTY)
        wait_for(lambda: workers_of(tmp_path), 90)
        for pid in workers_of(tmp_path):
            os.kill(pid, signal.SIGSTOP)
        os.kill(ray_process(controller.pid, "gcs_server"), signal.SIGKILL)
        _, errors = controller.communicate(timeout=180)
        ends.append((controller.returncode, "E417" in errors, "E418" in errors))
        wait_for(lambda: not processes_naming(str(tmp_path)), 60)
    assert ends == [(Exit.REQUEUE, True, False), (Exit.REQUEUE, True, False), (Exit.SOME_FAILED, True, True)]
    done = cli(study, tmp_path, *RAY)
    assert done.returncode == Exit.OK, done.stderr
    assert_same(tmp_path, expected)
