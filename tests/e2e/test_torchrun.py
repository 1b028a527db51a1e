"""launch/torchrun.sh: the ranks that torchrun starts do what those of a scheduler do, and go on after a stop."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import in_process, process_group
from tests.process_group import LAYOUT, Job
from tests.studies import wait_for

pytestmark = pytest.mark.usefixtures("with_data")
LAUNCH = Path(__file__).parents[2] / "launch" / "torchrun.sh"


def launch(job: Job) -> subprocess.Popen[str]:
    """Two ranks by the script."""
    variables = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    line = [str(LAUNCH), "2", str(job.folder.path), ",".join(job.model), *LAYOUT, "--checkpoint-every", "4"]
    return subprocess.Popen(line, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_torchrun_ranks_stopped_and_resumed_have_the_same_bytes(
    left_alone: Job, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Two ranks under torchrun are stopped and go on to the same bytes."""
    job = Job(tmp_path_factory.mktemp("launched"))
    first = launch(job)
    wait_for(lambda: job.steps() > 5)
    first.terminate()
    output, _ = first.communicate(timeout=480)
    assert not job.train.adapter.exists(), output
    assert job.newest_checkpoint() == job.steps(), "the step at which both agreed to stop was kept"
    second = launch(job)
    output, _ = second.communicate(timeout=480)
    assert second.returncode == 0, output
    assert "resuming" in output
    assert job.outcome() == left_alone.outcome()


def test_data_leaves_what_workers_need(tmp_path: Path) -> None:
    """`p2p-dist data`, then workers by hand, as docs/slurm.md has it: no `run` before."""
    (tmp_path / "study.yaml").write_text(process_group.STUDY)
    assert in_process.cli(tmp_path / "study.yaml", tmp_path / "runs", verb="data").returncode == 0
    assert {path.parent.parent.name for path in tmp_path.rglob("spec.json")} == {"data", "train", "eval"}
