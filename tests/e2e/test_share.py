"""Several controllers share one study: every job is done once, and the jobs of a dead one are taken over."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from p2p_dist.errors import Exit
from tests import in_process
from tests.conftest import TINY_STUDY
from tests.studies import arguments, command, wait_for

pytestmark = pytest.mark.usefixtures("with_data")
OPTIONS = ("--backend", "local", "--share")


def under_way(runs: Path) -> list[Path]:
    """Trainings that have made a step and have not come to their end."""
    return [path.parent for path in runs.rglob("train/*/metrics.jsonl") if not (path.parent / "adapter").exists()]


def assert_taken_over(runs: Path, study: Path, sharers: list[subprocess.Popen[str]], training: Path) -> None:
    """Kill the controller of a training; that job, and nothing else, is started again."""
    victim = json.loads(max(training.glob("lease/*.json")).read_text())["pid"]
    os.kill(victim, signal.SIGKILL)
    ends = {}
    for sharer in sharers:
        _, errors = sharer.communicate(timeout=400)
        ends[sharer.pid] = sharer.returncode
        assert sharer.pid == victim or sharer.returncode == Exit.OK, errors
    assert ends.pop(victim) == -signal.SIGKILL
    attempts = {
        path.name: len(list(path.glob("attempts/*"))) for path in runs.glob("tiny/*/*") if (path / "attempts").is_dir()
    }
    assert attempts.pop(training.name) == 2, "the dead one's job, and nothing else, was started again"
    assert set(attempts.values()) == {1}


@contextmanager
def sharing(line: Sequence[str]) -> Iterator[list[subprocess.Popen[str]]]:
    """Three controllers of one study, none of which outlives a test that fails."""
    sharers = [subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    try:
        yield sharers
    finally:
        for sharer in sharers:
            sharer.kill()


def refuse_alone(study: Path, runs: Path) -> None:
    """A controller that does not share is refused meanwhile."""
    alone = in_process.cli(study, runs, "--backend", "local")
    assert alone.returncode == Exit.OWNED
    assert re.search(r"E4\d\d.* works on (jobs of )?this study", alone.stderr), "a job, or the study in this moment"


def test_three_share_one_dies_and_each_job_is_done_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three controllers that train in their own processes; the first that has made a step is held there and killed."""
    study, runs, held = tmp_path / "study.yaml", tmp_path / "runs", tmp_path / "held"
    study.write_text(TINY_STUDY)
    monkeypatch.setenv(in_process.HOLD, f"2:{held}")
    line = [sys.executable, "-m", "tests.in_process", *arguments(study, runs, *OPTIONS)]
    with sharing(line) as sharers:
        wait_for(held.exists)
        monkeypatch.delenv(in_process.HOLD)
        refuse_alone(study, runs)
        training = Path(held.read_text())
        assert_taken_over(runs, study, sharers, training)


@pytest.mark.slow("six processes with torch on two cores; controllers that train themselves are the fast witness")
def test_three_share_with_workers_and_one_dies(tmp_path: Path) -> None:
    """The same with a worker for each controller, which ends with it."""
    study, runs = tmp_path / "study.yaml", tmp_path / "runs"
    study.write_text(TINY_STUDY.replace("epochs: 1", "epochs: 100"))
    line = command(study, runs, *OPTIONS)
    with sharing(line) as sharers:
        wait_for(lambda: under_way(runs))
        (training, *_) = under_way(runs)
        refuse_alone(study, runs)
        assert_taken_over(runs, study, sharers, training)
