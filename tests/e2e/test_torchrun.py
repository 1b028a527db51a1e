"""launch/torchrun.sh: the ranks that torchrun starts do what those of a scheduler do, and go on after a stop."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import process_group
from tests.e2e.test_study import _wait_for, cli
from tests.process_group import Job

pytestmark = pytest.mark.usefixtures("with_data")
LAUNCH = Path(__file__).parents[2] / "launch" / "torchrun.sh"
LAYOUT = ("--zero", "2", "--checkpoint-every", "4")


def launch(job: Job) -> subprocess.Popen[str]:
    own = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    line = [str(LAUNCH), "2", str(job.folder.path), ",".join(job.model), *LAYOUT]
    return subprocess.Popen(line, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_torchrun_ranks_stopped_and_resumed_have_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Two ranks under torchrun are stopped and go on to the same bytes."""
    expected, job = Job(tmp_path_factory.mktemp("expected")), Job(tmp_path_factory.mktemp("launched"))
    process_group.run(expected.command(expected.model, "--zero", "2"), 2)
    first = launch(job)
    _wait_for(lambda: job.steps() > 5, 120)
    first.terminate()
    said, _ = first.communicate(timeout=120)
    assert not job.train.adapter.exists(), said
    kept = max(path.name for path in job.train.checkpoints.iterdir())
    assert kept == f"step_{job.steps():06d}", "the step at which both agreed to stop was kept"
    second = launch(job)
    said, _ = second.communicate(timeout=120)
    assert second.returncode == 0, said
    assert "resuming" in said
    assert job.outcome() == expected.outcome()


def test_data_leaves_what_workers_need(tmp_path: Path) -> None:
    """`p2p-dist data`, then workers by hand, as docs/slurm.md has it: no `run` before."""
    (tmp_path / "study.yaml").write_text(process_group.STUDY)
    assert cli(tmp_path / "study.yaml", tmp_path / "runs", verb="data").returncode == 0
    assert {path.parent.parent.name for path in tmp_path.rglob("spec.json")} == {"data", "train", "eval"}
