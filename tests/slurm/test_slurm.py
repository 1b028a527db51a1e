"""Studies on a real Slurm: each ends with the bytes of an undisturbed local run, whatever happens to it."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import process_group, secret_probe
from tests.conftest import TINY_STUDY
from tests.e2e.test_study import cli
from tests.outcomes import assert_same, results
from tests.process_group import Job
from tests.slurm.machines import Machines, missing, wait_for

pytestmark = [
    pytest.mark.usefixtures("with_data"),
    pytest.mark.skipif(bool(why := missing()), reason=f"no Slurm cluster here: {why}"),
]
RUN = Path(__file__).parents[2] / "slurm" / "run.sbatch"
LAYOUT = ("--zero", "2")
LONG = (
    TINY_STUDY.replace("[none, p2p]", "none")
    .replace("exclude: [{attack: none, defense: p2p}]\n", "")
    .replace("epochs: 1", "epochs: 60")
)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> tuple[Path, dict[str, bytes]]:
    """(study file, results of an undisturbed run). Every worker has two cores, here and there, or its sums would round
    otherwise."""
    folder = tmp_path_factory.mktemp("local")
    (folder / "study.yaml").write_text(LONG)
    for nodes in (1, 2):
        (folder / f"{nodes}.yaml").write_text(f"name: pairs of cores\nnodes: {nodes}\ncpus_per_node: 2\nmemory_gb: 4\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("P2P_DIST_DATA", str(data_root))
        done = cli(folder / "study.yaml", folder / "runs", "--backend", "local", "--cluster", str(folder / "1.yaml"))
    assert done.returncode == 0, done.stderr
    return folder / "study.yaml", results(folder / "runs")


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


def over(nodes: int, study: Path) -> tuple[str, ...]:
    """Options for a job over so many nodes of two cores."""
    return ("--nodes", str(nodes), "--cpus-per-node", "2", f"--run-option=--cluster={study.with_name(f'{nodes}.yaml')}")


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


def await_start(runs: Path, job: str, start: int) -> None:
    """Wait until the controller counts this start of a job; it takes signals from before that."""
    wait_for(
        lambda: any(json.loads(path.read_text())["number"] == start for path in runs.glob(f"*/starts/{job}-*.json")),
        120,
    )


def training(runs: Path) -> bool:
    return any(path.read_text().count("\n") > 3 for path in runs.rglob("train/*/metrics.jsonl"))


def test_a_study_on_two_nodes(cluster: Machines, expected: Any, tmp_path: Path) -> None:
    study, wanted = expected
    job = number(submit(cluster, study, tmp_path, *over(2, study)))
    again = submit(cluster, study, tmp_path, *over(2, study))
    assert again.returncode == 4
    assert f"E132]: tiny is in the queue as job {job}" in again.stderr
    assert submit(cluster, study, tmp_path / "elsewhere", "--dry-run").returncode == 0
    ended(cluster, job, tmp_path)
    assert_same(tmp_path, wanted)
    assert len(hosts(tmp_path)) == 2, "both nodes worked"
    assert not list((cluster.home / "user" / ".p2p-dist").iterdir()), "the token is gone"


def test_slurm_time_limit_checkpoints_and_requeues(cluster: Machines, expected: Any, tmp_path: Path) -> None:
    """Before the time limit a study checkpoints and is requeued."""
    study, wanted = expected
    job = number(submit(cluster, study, tmp_path, *over(1, study)))
    wait_for(lambda: training(tmp_path), 120)
    cluster.ctl("scancel", "--batch", "--signal=USR1", job, check=True)
    wait_for(lambda: cluster.job(job)["Restarts"] == "1", 120)
    ended(cluster, job, tmp_path)
    assert "E412" in log(tmp_path)
    assert 75 in codes(tmp_path)
    assert_same(tmp_path, wanted)


def test_a_study_that_gets_nowhere_is_not_requeued_for_ever(cluster: Machines, expected: Any, tmp_path: Path) -> None:
    """Warned three times before anything was started, as by a time limit below what loading takes."""
    study, _ = expected
    job = number(submit(cluster, study, tmp_path, *over(1, study)))
    for start in (1, 2, 3):
        await_start(tmp_path, job, start)
        cluster.ctl("scancel", "--batch", "--signal=USR1", job, check=True)
    wait_for(lambda: cluster.job(job)["JobState"] not in ("PENDING", "RUNNING", "COMPLETING"), 120)
    assert [cluster.job(job)[name] for name in ("JobState", "ExitCode", "Restarts")] == ["FAILED", "1:0", "2"], log(
        tmp_path
    )[-4000:]
    assert "E418" in log(tmp_path)
    assert not list(tmp_path.rglob("attempts"))


def test_slurm_array_survives_a_dead_node_and_controller(cluster: Machines, expected: Any, tmp_path: Path) -> None:
    """An array shares the work and survives a dead node and a dead controller."""
    study, wanted = expected
    job = number(
        submit(cluster, study, tmp_path, "--tasks", "6", f"--run-option=--cluster={study.with_name('1.yaml')}")
    )
    wait_for(lambda: training(tmp_path), 120)
    cluster.cut_power("p2p2")
    cluster.cut_power(cluster.control)
    cluster.start_control()
    boot_again(cluster, "p2p2")
    ended(cluster, job, tmp_path)
    assert_same(tmp_path, wanted)


@pytest.mark.parametrize("why", ["requeued", "node died"])
def test_an_operator_may_requeue_a_study_and_a_node_may_die(
    cluster: Machines, expected: Any, tmp_path: Path, why: str
) -> None:
    study, wanted = expected
    job = number(submit(cluster, study, tmp_path, *over(2, study)))
    wait_for(lambda: training(tmp_path), 120)
    if why == "requeued":
        cluster.ctl("scontrol", "requeue", job, check=True)
    else:
        cluster.cut_power("p2p2")
        boot_again(cluster, "p2p2")
    wait_for(lambda: cluster.job(job)["Restarts"] == "1", 60)
    ended(cluster, job, tmp_path)
    assert_same(tmp_path, wanted)


def test_slurm_training_over_two_nodes_is_requeued_and_resumed(
    cluster: Machines, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """slurm/run.sbatch: a rank of DeepSpeed on each node, warned in the middle; the bytes are those of two ranks left
    alone."""
    expected, job = (Job(tmp_path_factory.mktemp("run"), epochs=12) for _ in range(2))
    process_group.run(expected.command(expected.model, *LAYOUT), 2)
    runs = job.folder.path
    submitted = submit_run(cluster, job, Path(sys.executable).parent)
    wait_for(lambda: job.steps() > 5, 120)
    cluster.ctl("scancel", "--batch", "--signal=USR1", submitted, check=True)
    wait_for(lambda: cluster.job(submitted)["Restarts"] == "1", 60)
    kept_at = job.steps()
    ended(cluster, submitted, runs, 120)
    assert f"resuming {job.model[0]} after step {kept_at}" in log(runs)
    assert job.outcome() == expected.outcome()


def submit_run(cluster: Machines, job: Job, python: Path) -> str:
    """A job of slurm/run.sbatch over both nodes, with the `python` of this folder. Returns its number."""
    runs = job.folder.path
    (runs / "slurm").mkdir()
    line = ["sbatch", "--parsable", "--nodes=2", "--ntasks-per-node=1", f"--output={runs}/slurm/%j.out", str(RUN)]
    return number(
        cluster.call("env", f"PATH={python}:{os.environ['PATH']}", *line, str(runs), ",".join(job.model), *LAYOUT)
    )


def test_a_training_that_gets_nowhere_is_not_requeued_for_ever(cluster: Machines, tmp_path: Path) -> None:
    """Ranks that stop before their first step, as by a time limit below what loading takes; a checkpoint in the second
    start counts. Like workers they take SIGTERM for a request, which is what srun sends to the others when one has
    stopped."""
    job = Job(tmp_path)
    (tmp_path / "bin").mkdir()
    stop = tmp_path / "bin" / "python"
    kept = job.train.path / "checkpoints" / "step-$SLURM_RESTART_COUNT"
    here = f'"{tmp_path}/rank-$SLURM_RESTART_COUNT'
    both = f'until [ -e {here}-0" ] && [ -e {here}-1" ]; do sleep 0.1; done'
    stop.write_text(
        f'#!/bin/sh\ntrap "" TERM\n[ "$SLURM_RESTART_COUNT" != 1 ] || mkdir -p "{kept}"\ntouch '
        f'{here}-$SLURM_PROCID"\n{both}\nexit 75\n'
    )
    stop.chmod(0o755)
    submitted = submit_run(cluster, job, stop.parent)
    wait_for(lambda: cluster.job(submitted)["JobState"] == "FAILED", 120)
    assert [cluster.job(submitted)[name] for name in ("ExitCode", "Restarts")] == ["1:0", "4"], log(job.folder.path)[
        -4000:
    ]
    assert "error[E418]: The last 3 restarts" in log(job.folder.path)
    assert not list((job.folder.path / "starts").iterdir())


def test_ranks_of_a_gang_are_on_both_nodes_of_a_ray(cluster: Machines, tmp_path: Path) -> None:
    """ZeRO-2 over two Ray nodes of a core each; the bytes are those of two ranks on one machine."""
    (tmp_path / "study.yaml").write_text(TINY_STUDY)
    for name, nodes, cpus in (("one", 1, 2), ("two", 2, 1)):
        facts = f"name: {name}\nnodes: {nodes}\ncpus_per_node: {cpus}\nmemory_gb: 4\n"
        (tmp_path / f"{name}.yaml").write_text(facts + "layout: {engine: deepspeed, ranks: 2, zero: 2}\n")
    only = ("attack=none", "defense=none", "exclude=[]")
    done = cli(
        tmp_path / "study.yaml", tmp_path / "here", *only, "--backend", "local", "--cluster", str(tmp_path / "one.yaml")
    )
    assert done.returncode == 0, done.stderr
    runs, options = (
        tmp_path / "runs",
        ("--nodes", "2", "--cpus-per-node", "1", f"--run-option=--cluster={tmp_path / 'two.yaml'}"),
    )
    ended(cluster, number(submit(cluster, tmp_path / "study.yaml", runs, *only, *options)), runs, 200)
    assert_same(runs, results(tmp_path / "here"))
    assert hosts(runs / "tiny" / "train") == {"p2p1", "p2p2"}, "a rank on each"


def test_a_failing_study_fails_its_job(cluster: Machines, tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(TINY_STUDY.replace("[none, p2p]", "[none, {name: p2p, ratio: 0.9}]"))
    job = number(submit(cluster, study, tmp_path / "runs", "--tasks", "1"))
    wait_for(lambda: cluster.job(job)["JobState"] in ("FAILED", "COMPLETED"), 240)
    assert (cluster.job(job)["JobState"], cluster.job(job)["ExitCode"]) == ("FAILED", "1:0")


def verb(cluster: Machines, name: str, runs: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`p2p-dist NAME` of the study in `runs`."""
    return cluster.call(sys.executable, "-m", "p2p_dist", name, str(runs / "tiny"), *arguments, seconds=60)


def test_a_cancelled_study_checkpoints_and_resumes(cluster: Machines, expected: Any, tmp_path: Path) -> None:
    """With a setup file, a variable and options of sbatch, over two nodes: the workers of both nodes have the variable,
    and no file, log or detail of the job has its value."""
    study, wanted = expected
    runs, probe = tmp_path / "runs", secret_probe.install(tmp_path / "probe")
    setup = tmp_path / "set up.sh"
    setup.write_text(f"export PYTHONPATH={probe}:$PYTHONPATH_THAT_IS_NOT_SET{Path(__file__).parents[2]}\n")
    more = ("--setup", str(setup), "--env", secret_probe.NAME, "--sbatch", "comment=a b; $(id)", "--sbatch", "mem=3G")
    line = [sys.executable, "-m", "p2p_dist", "submit", "slurm", str(study), "--runs-dir", str(runs), *over(2, study)]
    start = ("env", f"{secret_probe.NAME}={secret_probe.VALUE}", *line, *more)
    job = number(cluster.call(*start, seconds=120))
    wait_for(lambda: training(runs), 240)
    details = cluster.ctl("scontrol", "show", "job", job)
    assert "Comment=a b; $(id)" in details
    assert "MinMemoryNode=3G" in details
    shown = verb(cluster, "logs", runs)
    assert shown.stderr.strip().endswith(f"slurm/{job}.out")
    assert "tiny: 0 of" in shown.stdout
    assert verb(cluster, "cancel", runs).stdout == f"Slurm job {job} asked to stop\n"
    wait_for(lambda: cluster.job(job)["JobState"] not in ("RUNNING", "COMPLETING"), 120)
    assert [cluster.job(job)[key] for key in ("JobState", "ExitCode", "Restarts")] == ["FAILED", "75:0", "0"]
    assert 75 in codes(runs)
    (launch,) = json.loads((runs / "tiny" / "provenance.json").read_text())["launches"]
    assert launch["setup"] == {"path": str(setup), "content": setup.read_text()}
    again = number(cluster.call(*start, seconds=120))
    ended(cluster, again, runs)
    assert_same(runs, wanted)
    assert secret_probe.hosts_with_secret(probe, "p2p_dist.worker") == {True: {"p2p1", "p2p2"}, False: set()}
    assert not secret_probe.leaks([runs, tmp_path, cluster.home / "user"]), "in the state of Slurm's controller alone"
    assert secret_probe.VALUE not in details
    assert "nothing to cancel" in verb(cluster, "cancel", runs).stdout


def test_cancel_of_a_pending_job_removes_it(cluster: Machines, expected: Any, tmp_path: Path) -> None:
    job = number(submit(cluster, expected[0], tmp_path, "--tasks", "2", "--sbatch", "hold"))
    assert verb(cluster, "cancel", tmp_path).returncode == 0
    wait_for(lambda: set(cluster.states(job)) == {"CANCELLED"}, 60)


@pytest.mark.parametrize("line", ["false", "exit 0", "no_such_program"])
def test_a_setup_file_that_fails_fails_the_job(cluster: Machines, expected: Any, tmp_path: Path, line: str) -> None:
    (tmp_path / "setup").write_text(f"{line}\ntrue\n")
    job = number(submit(cluster, expected[0], tmp_path, "--tasks", "1", "--setup", str(tmp_path / "setup")))
    wait_for(lambda: cluster.job(job)["JobState"] in ("FAILED", "COMPLETED"), 60)
    assert (cluster.job(job)["JobState"], cluster.job(job)["ExitCode"]) == ("FAILED", "2:0")
    assert "error[E138]: the setup file" in log(tmp_path)
    assert not (tmp_path / "tiny" / "provenance.json").exists()


def test_what_sbatch_says_is_passed_on(cluster: Machines, expected: Any, tmp_path: Path) -> None:
    done = submit(cluster, expected[0], tmp_path, "--partition", "nowhere")
    assert done.returncode == 2
    assert "E133]: sbatch says:" in done.stderr
    assert "invalid partition" in done.stderr


def boot_again(cluster: Machines, node: str) -> None:
    """Tell Slurm at once that a machine is gone, and start it again."""
    cluster.ctl("scontrol", "update", f"nodename={node}", "state=down", "reason=power")
    cluster.start(node)
    wait_for(lambda: "resumed" in resume(cluster, node), 60)


def resume(cluster: Machines, node: str) -> str:
    done = cluster.call("scontrol", "update", f"nodename={node}", "state=resume")
    state = cluster.ctl("sinfo", "-h", "-n", node, "-o", "%T")
    return "resumed" if state in ("idle", "mixed", "allocated") else done.stderr


def hosts(runs: Path) -> set[str]:
    return {line.split()[0] for path in runs.rglob("attempts/*/hosts") for line in path.read_text().splitlines()}


def codes(runs: Path) -> set[int]:
    return {json.loads(path.read_text())["code"] for path in runs.rglob("exit.json")}
