"""Failures of a part: what does not depend on it is done, what does is named with the reason."""

from pathlib import Path

import pytest

from p2p_dist.config.graph import Graph, Stage
from p2p_dist.errors import Exit
from p2p_dist.planning.cluster import ClusterSpec
from p2p_dist.planning.durations import Rates
from p2p_dist.planning.jobs import Job, missing_jobs
from p2p_dist.planning.measured import Durations
from p2p_dist.planning.placement import Placement
from p2p_dist.planning.plan import Plan
from p2p_dist.results import collect, lease
from p2p_dist.results.attempts import Attempt
from p2p_dist.results.collect import StageState
from p2p_dist.results.rundir import RunDir
from p2p_dist.scheduling.backend import ProcessGroup
from p2p_dist.scheduling.backends.local import LocalBackend
from p2p_dist.scheduling.claims import Sole
from p2p_dist.scheduling.process_groups import GroupSettings
from p2p_dist.scheduling.scheduler import Scheduler
from p2p_dist.scheduling.state import State
from tests.planning.stages import rows_stage, train_stage


class Worker(LocalBackend):
    """A worker in this process that writes the marker of each stage, and ends at the first of those that fail."""

    def __init__(self, folder: RunDir, fails: set[str], diverges: set[str]):
        super().__init__(2, 0)
        self.folder, self.fails, self.diverges = folder, fails, diverges
        self.attempts: list[tuple[str, ...]] = []

    def start(self, group: ProcessGroup) -> str:
        stages = tuple(group.command[group.command.index("--stages") + 1].split(","))
        self.attempts.append(stages)
        name = str(len(self._codes))
        self._codes[name] = self._run(stages)
        return name

    def _run(self, stages: tuple[str, ...]) -> int:
        diverged: set[str] = set()
        for stage in (self.folder.find(id_) for id_ in stages):
            if stage.path.name in self.fails:
                return Exit.USAGE
            if stage.path.name in self.diverges or stage.read_stage().reads.get("adapter") in diverged:
                stage.cost.write_text("{}")
                diverged.add(stage.path.name)
            elif stage.kind == "train":
                stage.adapter.mkdir()
            else:
                stage.marker.write_text("{}")
        return Exit.SOME_FAILED if diverged else Exit.OK


@pytest.fixture
def graph() -> tuple[Graph, list[Stage]]:
    """Rows of two attacks, a training on each, the evaluations of both, and of the first on the second's rows."""
    made = Graph()
    rows = [made.add(rows_stage(seed=seed)) for seed in range(2)]
    trains = [made.add(train_stage(rows[seed], seed=seed)) for seed in range(2)]
    reads = [(0, 0), (1, 1), (0, 1)]
    evals = [made.add(Stage("eval", {}, {"adapter": trains[a].id, "rows": rows[b].id})) for a, b in reads]
    return made, [*rows, *trains, *evals]


def carry_out(
    made: Graph, folder: RunDir, cohort: int = 1, fails: tuple[Stage, ...] = (), diverges: tuple[Stage, ...] = ()
) -> tuple[State, Worker]:
    """Schedule all stages on a worker for which these fail."""
    rates = Rates({}, ClusterSpec(name="here", cpus_per_node=2))
    jobs = missing_jobs(made, (), lambda stage: cohort, rates.seconds)
    folder.write_specs(made)
    worker = Worker(folder, {stage.id for stage in fails}, {stage.id for stage in diverges})
    plan = Plan(jobs, {}, {}, Durations(rates))
    with lease.hold(folder.lease) as held:
        scheduler = Scheduler(folder, worker, plan, 1, GroupSettings(1, 0, 2, 50), Sole(held), 60)
        return scheduler.run(lambda state: None, lambda: False), worker


def stages_of(jobs: list[Job]) -> set[str]:
    return {id_ for job in jobs for id_ in job.stages}


@pytest.mark.parametrize("cohort", [1, 2])
def test_lost_rows_block_only_what_reads_them(graph: tuple[Graph, list[Stage]], tmp_path: Path, cohort: int) -> None:
    """The training on sound rows and its evaluation on them are done, alone or in a cohort with the other."""
    made, (rows, lost_rows, train, lost_train, sound, lost_eval, floor) = graph
    folder = RunDir(tmp_path)
    state, worker = carry_out(made, folder, cohort, fails=(lost_rows,))
    assert folder.done(made) == {rows.id, train.id, sound.id}
    assert [failure.job.stages for failure in state.failed] == [(lost_rows.id,)]
    assert stages_of(state.blocked) == {lost_train.id, lost_eval.id, floor.id}
    assert len(worker.attempts) == 3


def test_failing_evaluation_leaves_others_of_its_job(graph: tuple[Graph, list[Stage]], tmp_path: Path) -> None:
    """It is tried once more, alone, so that it fails under its own id with its own log."""
    made, (*_, sound, _, _floor) = graph
    folder = RunDir(tmp_path)
    state, worker = carry_out(made, folder, fails=(sound,))
    assert folder.done(made) == set(made.stages) - {sound.id}
    assert [failure.job.stages for failure in state.failed] == [(sound.id,)]
    assert folder.stage(sound).attempt_folders()
    assert worker.attempts.count((sound.id,)) == 1
    assert not state.blocked


def test_evaluation_without_memory_is_not_tried_with_fewer_rows(
    graph: tuple[Graph, list[Stage]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once its training is done: tried alone, without what the training holds, it fails for a reason of its own."""
    made, (*_, sound, _, _floor) = graph
    run_stages = Worker.start

    def start(worker: Worker, group: ProcessGroup) -> str:
        group.log.write_text("torch.OutOfMemoryError: CUDA out of memory.")
        return run_stages(worker, group)

    monkeypatch.setattr(Worker, "start", start)
    monkeypatch.setattr(Plan, "placement", lambda plan, job: Placement(1, 0, "none", 32, 1, 1, None))
    state, worker = carry_out(made, RunDir(tmp_path), fails=(sound,))
    assert "out of memory in an evaluation" in state.failed[0].reason
    assert sum(sound.id in stages for stages in worker.attempts) == 2


def test_failing_training_of_a_cohort_leaves_the_other(graph: tuple[Graph, list[Stage]], tmp_path: Path) -> None:
    """A cohort that fails is trained one by one; a run that diverged is not trained again."""
    made, (_, _, train, other, *_) = graph
    state, worker = carry_out(made, RunDir(tmp_path / "fails"), 2, fails=(train,))
    assert other.id in RunDir(tmp_path / "fails").done(made)
    assert [failure.job.lead for failure in state.failed] == [train.id]
    assert sum(train.id in stages for stages in worker.attempts) == 2
    for first, second in ((train, other), (other, train)):
        folder = RunDir(tmp_path / first.id)
        state, worker = carry_out(made, folder, 2, diverges=(first,))
        assert second.id in folder.done(made)
        assert [failure.job.lead for failure in state.failed] == [first.id]
        assert sum(first.id in stages for stages in worker.attempts) == 1


def test_diverged_training_of_a_cohort_has_the_status_failed() -> None:
    """Its attempt is recorded in the folder of the cohort's first run, which is done; a third will be tried again."""
    ended = Attempt(1, ("first", "second", "again", "eval"), 0.0, 1.0, int(Exit.SOME_FAILED), {}, "exit code 1")
    stages = {
        "first": StageState("first", "train", "done", {}, {}, "log", (ended,)),
        "second": StageState("second", "train", "pending", {}, {"steps": 4}),
        "again": StageState("again", "train", "pending", {}, {}),
        "eval": StageState("eval", "eval", "pending", {}, {}),
    }
    collect.mark_failed_beside(stages)
    assert [state.status for state in stages.values()] == ["done", "failed", "pending", "pending"]
    assert stages["second"].log == "log"
