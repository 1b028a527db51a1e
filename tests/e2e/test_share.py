"""Several controllers share one study: every job is done once, and the jobs of a dead one are taken over."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from p2p_dist.errors import Exit
from tests.conftest import TINY_STUDY
from tests.e2e.test_study import _wait_for, cli, command

pytestmark = pytest.mark.usefixtures("with_data")
OPTIONS = ("--backend", "local", "--share")


def under_way(runs: Path) -> list[Path]:
    """Trainings that have made a step and have not come to their end."""
    return [path.parent for path in runs.rglob("train/*/metrics.jsonl") if not (path.parent / "adapter").exists()]


def test_three_share_one_dies_and_each_job_is_done_once(tmp_path: Path) -> None:
    study, runs = tmp_path / "study.yaml", tmp_path / "runs"
    study.write_text(TINY_STUDY.replace("epochs: 1", "epochs: 40"))
    line = command(study, runs, *OPTIONS)
    sharers = [subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    _wait_for(lambda: under_way(runs), 120)
    (training, *_) = under_way(runs)
    victim = json.loads(max(training.glob("lease/*.json")).read_text())["pid"]
    os.kill(victim, signal.SIGKILL)
    alone = cli(study, runs, "--backend", "local")
    assert alone.returncode == Exit.OWNED
    assert "works on jobs of this study" in alone.stderr
    ends = {}
    for sharer in sharers:
        _, said = sharer.communicate(timeout=400)
        ends[sharer.pid] = sharer.returncode
        assert sharer.pid == victim or sharer.returncode == Exit.OK, said
    assert ends.pop(victim) == -signal.SIGKILL
    attempts = {
        path.name: len(list(path.glob("attempts/*"))) for path in runs.glob("tiny/*/*") if (path / "attempts").is_dir()
    }
    assert attempts.pop(training.name) == 2, "the dead one's job, and nothing else, was started again"
    assert set(attempts.values()) == {1}
