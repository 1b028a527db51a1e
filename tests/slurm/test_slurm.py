"""Studies on a real Slurm: each ends with the bytes of an undisturbed local run, whatever happens to it."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import process_group
from tests.conftest import TINY_STUDY, failing_study
from tests.outcomes import assert_same, results
from tests.process_group import Job
from tests.slurm.jobs import await_start, codes, ended, log, number, over, submit, training
from tests.slurm.machines import Machines, missing, wait_for
from tests.studies import cli

pytestmark = [
    pytest.mark.usefixtures("with_data"),
    pytest.mark.skipif(bool(why := missing()), reason=f"no Slurm cluster here: {why}"),
]
RUN = Path(__file__).parents[2] / "slurm" / "run.sbatch"
LAYOUT = ("--zero", "2")


@pytest.mark.slow("two minutes; a cancelled study that resumes over both nodes is the fast witness")
def test_a_study_on_two_nodes(cluster: Machines, expected: Any, tmp_path: Path) -> None:
    study, wanted = expected
    ended(cluster, number(submit(cluster, study, tmp_path, *over(2, study))), tmp_path)
    assert_same(tmp_path, wanted)
    assert len(hosts(tmp_path)) == 2, "both nodes worked"


def test_a_study_in_the_queue_is_not_submitted_again(cluster: Machines, expected: Any, tmp_path: Path) -> None:
    """A second job for the same run folder is refused with the number of the first; another folder is free."""
    study, _ = expected
    job = number(submit(cluster, study, tmp_path, *over(2, study), "--sbatch", "hold"))
    again = submit(cluster, study, tmp_path, *over(2, study))
    assert again.returncode == 4
    assert f"E132]: tiny is in the queue as job {job}" in again.stderr
    assert submit(cluster, study, tmp_path / "elsewhere", "--dry-run").returncode == 0


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


@pytest.mark.slow("minutes; a requeue at the time limit and an array whose node dies are the fast witnesses")
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
    study.write_text(failing_study(tmp_path))
    job = number(submit(cluster, study, tmp_path / "runs", "--tasks", "1"))
    wait_for(lambda: cluster.job(job)["JobState"] in ("FAILED", "COMPLETED"), 240)
    assert (cluster.job(job)["JobState"], cluster.job(job)["ExitCode"]) == ("FAILED", "1:0")


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
