"""Submission, cancel and logs of a study on a real Slurm."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import secret_probe
from tests.outcomes import assert_same
from tests.slurm.jobs import codes, ended, log, number, over, submit, training
from tests.slurm.machines import Machines, missing, wait_for

pytestmark = [
    pytest.mark.usefixtures("with_data"),
    pytest.mark.skipif(bool(why := missing()), reason=f"no Slurm cluster here: {why}"),
]


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
    assert not list((cluster.home / "user" / ".p2p-dist").iterdir()), "the token of Ray is gone"
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
