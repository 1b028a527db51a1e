"""The live view: how much of a job is done, what its lines name, and how much time is left."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from p2p_dist.config.graph import Stage
from p2p_dist.planning.jobs import Job
from p2p_dist.results.rundir import RunDir
from p2p_dist.scheduling.progress import ProgressView, titles_of
from p2p_dist.scheduling.state import State
from p2p_dist.scheduling.time_left import TimeLeft


@pytest.fixture
def two_stages(tmp_path: Path) -> tuple[RunDir, Job]:
    """A training of 30 s and its evaluation of 10 s."""
    folder = RunDir(tmp_path)
    train = Stage("train", {"train": {}})
    stages = [train, Stage("eval", {}, {"adapter": train.id})]
    for stage in stages:
        folder.stage(stage).write_spec(stage)
    return folder, Job(tuple(stage.id for stage in stages), (frozenset(), frozenset()), (30.0, 10.0))


def lines_of(folder: RunDir, job: Job, titles: dict[str, str] | None = None) -> list[str]:
    """Lines of the first look at a study with this one job, which is running."""
    out = io.StringIO()
    time_left = TimeLeft([job], 1, 10.0, lambda job: 1)
    view = ProgressView(folder, titles or {}, Console(file=out, width=200), time_left)
    view.started -= 60
    view.look(State([], {"a": job}))
    return out.getvalue().splitlines()


def test_lines_of_a_job_that_starts_come_at_once(two_stages: tuple[RunDir, Job]) -> None:
    folder, job = two_stages
    titles = {job.stages[0]: "train badnets + p2p, tiny, seed 0"}
    assert lines_of(folder, job, titles) == [
        "train badnets + p2p, tiny, seed 0: starting",
        "study: 0 of 1 jobs done, 1:00 elapsed, about 0:50 left",
    ]


def test_lines_of_a_training_say_step_loss_and_speed(two_stages: tuple[RunDir, Job]) -> None:
    folder, job = two_stages
    folder.find(job.stages[0]).append_metrics({"step": 20, "steps": 30, "loss": 1.0, "tokens": 100, "seconds": 60.0})
    first, second = lines_of(folder, job, {job.stages[0]: "train a + b"})
    assert first == "train a + b: step 20/30, loss 1.000, 2 tokens/s, 0:30 left"
    assert second.endswith("about 0:30 left"), "10 s to start, 10 s of the training and 10 s of its evaluation"


def test_lines_of_an_evaluation_count_rows(two_stages: tuple[RunDir, Job]) -> None:
    folder, job = two_stages
    folder.find(job.stages[0]).adapter.mkdir()
    folder.find(job.stages[1]).append_metrics({"rows": 10, "of": 20})
    first, second = lines_of(folder, job, {job.stages[1]: "eval a + b"})
    assert first.startswith("eval a + b: row 10/20, ")
    assert second.endswith("about 0:15 left"), "10 s to start and half of the evaluation"


def test_first_progress_of_a_study_is_shown_at_once(two_stages: tuple[RunDir, Job]) -> None:
    """Later lines come at their pace."""
    folder, job = two_stages
    out = io.StringIO()
    view = ProgressView(folder, {}, Console(file=out, width=200), TimeLeft([job], 1, 10.0, lambda job: 1))
    rounds = []
    for step in (0, 0, 1, 2):
        if step:
            line = {"step": step, "steps": 30, "loss": 1.0, "tokens": 9, "seconds": 1.0}
            folder.find(job.stages[0]).append_metrics(line)
        view.look(State([], {"a": job}))
        rounds.append(len(out.getvalue().splitlines()))
    assert rounds == [2, 2, 4, 4]


def test_study_with_all_results_and_a_worker_has_no_work_left(two_stages: tuple[RunDir, Job]) -> None:
    """Between a worker's last result and its end, its last stage was once counted twice, and the time left was
    negative."""
    folder, job = two_stages
    folder.find(job.stages[0]).adapter.mkdir()
    folder.find(job.stages[1]).append_metrics({"rows": 20, "of": 20})
    folder.find(job.stages[1]).result.write_text("{}")
    assert lines_of(folder, job)[-1].endswith("about 0:00 left")


def test_titles_name_what_all_runs_of_a_stage_share() -> None:
    def run(model: str, seed: int, attack: str = "badnets") -> dict[str, object]:
        cell = {"task": "sst2", "model": f"Qwen/{model}", "attack": attack, "defense": "p2p", "seed": str(seed)}
        ends = {"train": f"t{model}{seed}", "eval": f"e{model}{seed}", "floor": f"f{model}{seed}"}
        return {"cell": cell, "stages": [f"d{seed}", "shared", *ends.values()], **ends}

    runs = [run("q1", 0), run("q2", 0), run("q1", 1)]
    titles = titles_of(runs, {"d0": "data", "shared": "score"})
    assert titles["tq20"] == "train badnets + p2p, q2, seed 0"
    assert titles["eq11"] == "eval badnets + p2p, q1, seed 1"
    assert titles["fq10"] == "eval clean model on badnets, q1, seed 0"
    assert titles["d0"] == "data badnets + p2p, seed 0"
    assert titles["shared"] == "score badnets + p2p"
