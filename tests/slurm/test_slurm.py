"""Studies on a real Slurm: each ends with the bytes of an undisturbed local run, whatever happens to it."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TINY_STUDY
from tests.e2e.test_study import cli, results
from tests.slurm.machines import Machines, missing, wait_for

pytestmark = [pytest.mark.usefixtures("with_data"), pytest.mark.skipif(bool(why := missing()), reason=f"no Slurm cluster here: {why}")]
LONG = TINY_STUDY.replace("[none, p2p]", "none").replace("exclude: [{attack: none, defense: p2p}]\n", "").replace("epochs: 1", "epochs: 10")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> tuple[Path, dict[str, bytes]]:
    """(study file, results of an undisturbed run)."""
    folder = tmp_path_factory.mktemp("local")
    (folder / "study.yaml").write_text(LONG)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("P2P_DIST_DATA", str(data_root))
        done = cli(folder / "study.yaml", folder / "runs", "--backend", "local", "--cohort", "3")
    assert done.returncode == 0, done.stderr
    return folder / "study.yaml", rates(folder / "runs")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Iterator[Machines]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("P2P_DIST_DATA", str(data_root))
        with Machines(tmp_path_factory.mktemp("slurm")) as machines:
            yield machines


@pytest.fixture(autouse=True)
def empty_queue(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test meets the jobs of one that failed."""
    yield
    request.getfixturevalue("cluster").ctl("scancel", "--user=root", "--signal=KILL", "--full")
    request.getfixturevalue("cluster").ctl("scancel", "--user=root")


def rates(runs: Path) -> dict[str, Any]:
    """The rates of every result; cohorts and threads differ from the local run, so bytes may."""
    return {name: json.loads(content)["rates"] for name, content in results(runs).items() if name.endswith("result.json")}


def submit(cluster: Machines, study: Path, runs: Path, *options: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "p2p_dist", "submit", "slurm", str(study), "--runs-dir", str(runs), *options]
    return cluster.call(*line, seconds=120)


def number(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


def log(runs: Path) -> str:
    return "".join(path.read_text() for path in sorted(runs.rglob("slurm/*.out")))


def ended(cluster: Machines, job: str, runs: Path, seconds: float = 400) -> None:
    """Wait for the end, and show the job's own words when it is another."""
    with contextlib.suppress(TimeoutError):
        wait_for(lambda: set(cluster.states(job)) <= {"COMPLETED", "FAILED"}, seconds)
    assert set(cluster.states(job)) == {"COMPLETED"}, log(runs)[-4000:]


def training(runs: Path) -> bool:
    return any(path.read_text().count("\n") > 3 for path in runs.rglob("train/*/metrics.jsonl"))


def test_a_study_on_two_nodes(cluster: Machines, expected: Any, tmp_path: Path) -> None:
    study, wanted = expected
    job = number(submit(cluster, study, tmp_path, "--nodes", "2", "--cpus-per-node", "2"))
    again = submit(cluster, study, tmp_path, "--nodes", "2", "--cpus-per-node", "2")
    assert again.returncode == 4
    assert f"E132]: tiny is in the queue as job {job}" in again.stderr
    assert submit(cluster, study, tmp_path / "elsewhere", "--dry-run").returncode == 0
    ended(cluster, job, tmp_path)
    assert rates(tmp_path) == wanted
    assert len(hosts(tmp_path)) == 2, "both nodes worked"
    assert not list((cluster.home / "user" / ".p2p-dist").iterdir()), "the token is gone"


def test_before_the_time_limit_a_study_checkpoints_and_is_requeued(cluster: Machines, expected: Any, tmp_path: Path) -> None:
    study, wanted = expected
    job = number(submit(cluster, study, tmp_path, "--nodes", "1", "--cpus-per-node", "2"))
    wait_for(lambda: training(tmp_path), 120)
    cluster.ctl("scancel", "--batch", "--signal=USR1", job, check=True)
    wait_for(lambda: cluster.job(job)["Restarts"] == "1", 120)
    ended(cluster, job, tmp_path)
    assert "E412" in log(tmp_path)
    assert 75 in codes(tmp_path)
    assert rates(tmp_path) == wanted


def test_an_array_shares_the_work_and_survives_a_dead_node_and_a_dead_controller(cluster: Machines, expected: Any, tmp_path: Path) -> None:
    study, wanted = expected
    job = number(submit(cluster, study, tmp_path, "--tasks", "4"))
    wait_for(lambda: training(tmp_path), 120)
    cluster.cut_power("p2p2")
    cluster.cut_power(cluster.control)
    cluster.start_control()
    cluster.ctl("scontrol", "update", "nodename=p2p2", "state=down", "reason=power")
    cluster.start("p2p2")
    wait_for(lambda: "resumed" in resume(cluster, "p2p2"), 60)
    ended(cluster, job, tmp_path)
    assert rates(tmp_path) == wanted


def test_an_operator_may_requeue_a_study(cluster: Machines, expected: Any, tmp_path: Path) -> None:
    study, wanted = expected
    job = number(submit(cluster, study, tmp_path, "--nodes", "2", "--cpus-per-node", "2"))
    wait_for(lambda: training(tmp_path), 120)
    cluster.ctl("scontrol", "requeue", job, check=True)
    wait_for(lambda: cluster.job(job)["Restarts"] == "1", 60)
    ended(cluster, job, tmp_path)
    assert rates(tmp_path) == wanted


def test_a_failing_study_fails_its_job(cluster: Machines, tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(TINY_STUDY.replace("[none, p2p]", "[none, {name: p2p, ratio: 0.9}]"))
    job = number(submit(cluster, study, tmp_path / "runs", "--tasks", "1"))
    wait_for(lambda: cluster.job(job)["JobState"] in ("FAILED", "COMPLETED"), 240)
    assert (cluster.job(job)["JobState"], cluster.job(job)["ExitCode"]) == ("FAILED", "1:0")


def test_what_sbatch_says_is_passed_on(cluster: Machines, expected: Any, tmp_path: Path) -> None:
    done = submit(cluster, expected[0], tmp_path, "--partition", "nowhere")
    assert done.returncode == 2
    assert "E133]: sbatch says:" in done.stderr
    assert "invalid partition" in done.stderr


def resume(cluster: Machines, node: str) -> str:
    done = cluster.call("scontrol", "update", f"nodename={node}", "state=resume")
    state = cluster.ctl("sinfo", "-h", "-n", node, "-o", "%T")
    return "resumed" if state in ("idle", "mixed", "allocated") else done.stderr


def hosts(runs: Path) -> set[str]:
    return {line.split()[0] for path in runs.rglob("attempts/*/hosts") for line in path.read_text().splitlines()}


def codes(runs: Path) -> set[int]:
    return {json.loads(path.read_text())["code"] for path in runs.rglob("exit.json")}
