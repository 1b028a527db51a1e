"""The live view: how much of a job is done, and how much time is left."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from p2p_dist.config.graph import Stage
from p2p_dist.planning.jobs import Job
from p2p_dist.results.rundir import RunDir
from p2p_dist.scheduling.progress import ProgressView
from p2p_dist.scheduling.scheduler import State


@pytest.fixture
def two_stages(tmp_path: Path) -> tuple[RunDir, Job]:
    """A training of 30 s and its evaluation of 10 s."""
    folder = RunDir(tmp_path)
    train = Stage("train", {"train": {}})
    stages = [train, Stage("eval", {}, {"adapter": train.id})]
    for stage in stages:
        folder.stage(stage).write_spec(stage)
    return folder, Job(tuple(stage.id for stage in stages), frozenset(), (30.0, 10.0))


def said(folder: RunDir, state: State, elapsed: float) -> str:
    out = io.StringIO()
    view = ProgressView(folder, {}, Console(file=out, width=200))
    view.started -= elapsed
    view.look(state)
    return out.getvalue()


def test_time_left_is_what_the_rest_costs(two_stages: tuple[RunDir, Job]) -> None:
    folder, job = two_stages
    folder.find(job.stages[0]).append_metrics({"step": 20, "steps": 30, "loss": 1.0, "tokens": 100, "seconds": 60.0})
    assert "0/1 jobs, 1:00 gone, about 1:00 left" in said(folder, State([], {"a": job}), 60)
    folder.find(job.stages[0]).adapter.mkdir()
    folder.find(job.stages[1]).append_metrics({"rows": 10, "of": 20})
    assert "about 0:09 left" in said(folder, State([], {"a": job}), 60), "35 of 40 s are done"


def test_a_worker_that_is_done_and_still_there_counts_once(two_stages: tuple[RunDir, Job]) -> None:
    """Between a worker's last result and its end, its last stage was once counted twice, and the time left was
    negative."""
    folder, job = two_stages
    folder.find(job.stages[0]).adapter.mkdir()
    folder.find(job.stages[1]).append_metrics({"rows": 20, "of": 20})
    folder.find(job.stages[1]).result.write_text("{}")
    assert "about 0:00 left" in said(folder, State([], {"a": job}), 60)
