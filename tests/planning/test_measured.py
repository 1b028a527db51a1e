"""Times of finished runs in place of assumed ones."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from p2p_dist.config.graph import Graph, Stage
from p2p_dist.config.identity import canonical
from p2p_dist.config.study import TrainSpec
from p2p_dist.planning.cluster import ClusterSpec
from p2p_dist.planning.durations import Rates, model_of
from p2p_dist.planning.measured import Durations, Finished, Timings, measure
from p2p_dist.planning.row_tokens import TOKENS_PER_ROW
from p2p_dist.report import plan_view
from p2p_dist.results import timings
from p2p_dist.results.records import Cost
from p2p_dist.results.rundir import RunDir
from p2p_dist.scheduling.study import open_study
from tests.planning.stages import rows_stage, train_stage
from tests.synthetic import STUDY, make_study

CPU = ClusterSpec(name="here", cpus_per_node=2)
GPU = ClusterSpec(name="there", cpus_per_node=2, gpus_per_node=1)
TWO_MODELS = STUDY.replace(
    "[random:qwen3-0.6b, random:qwen3-1.7b, random:qwen3-4b]", "[random:qwen3-0.6b, random:qwen3-1.7b]"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """A finished study and its file."""
    root = tmp_path_factory.mktemp("made")
    make_study(root, data_root, TWO_MODELS)
    return root


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> RunDir:
    """A copy that a test may change, with the study's file above it."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return RunDir(tmp_path / "runs" / "synthetic")


def models_of(folder: RunDir) -> set[str]:
    return {canonical(json.loads(path.read_text())["spec"]["model"]) for path in folder.path.glob("train/*/spec.json")}


def training(graph: Graph, rows: int, model: str = "a", seed: int = 0) -> Stage:
    return graph.add(train_stage(graph.add(rows_stage(rows)), model=model, seed=seed))


def test_measured_rate_weighs_runs_by_their_length() -> None:
    """100 and 300 rows took 4 and 8 times what was assumed: 28 / 4 = 7 times."""
    graph, assumed = Graph(), Rates({}, CPU)
    short, long, new, other = (
        training(graph, 100),
        training(graph, 300),
        training(graph, 200),
        training(graph, 200, "b"),
    )
    unit = assumed.seconds(graph, short)
    said = measure(
        Timings([Finished(short.id, graph, 4 * unit, False, "cpu"), Finished(long.id, graph, 24 * unit, False, "cpu")]),
        assumed,
    )
    assert said.seconds(graph, new) == pytest.approx(7 * 2 * unit)
    assert said.seconds(graph, long) == 24 * unit, "the very stage: as it was"
    assert said.seconds(graph, other) == assumed.seconds(graph, other)
    assert said.origins(graph, graph.stages) == {"recorded": 2, "rate": 1, "assumed": 1}
    rate = said.rates["train", model_of(graph, new)]
    assert (rate.stages, rate.devices) == (2, ["cpu"])


def test_tokens_of_a_row_are_those_of_a_whole_training() -> None:
    """One that stopped early or whose file cannot be right says nothing."""
    stage = training(Graph(), 100)
    train = TrainSpec.model_validate(stage.spec["train"])
    steps = train.num_train_epochs * -(-100 // train.global_batch)
    whole = {"seconds": 1.0, "rows": 100, "steps": steps, "tokens": 100 * train.num_train_epochs * 20}
    assert timings._row_tokens(stage, Cost.model_validate(whole)) == 20
    for change in ({"steps": 1}, {"tokens": 2**53 - 1}, {"rows": 0, "steps": 0}):
        assert timings._row_tokens(stage, Cost.model_validate({**whole, **change})) is None


def test_trainings_that_read_less_of_a_row_say_nothing_of_others() -> None:
    graph, assumed = Graph(), Rates({}, CPU)
    done, new = training(graph, 100), training(graph, 100, seed=1)
    longer = replace(new, spec={**new.spec, "train": {**new.spec["train"], "max_length": 512}})
    said = measure(Timings([Finished(done.id, graph, 1.0, False, "cpu", row_tokens=60.0)]), assumed).assumed
    assert (said.row_tokens(graph, new), said.row_tokens(graph, longer)) == (60, TOKENS_PER_ROW)


def test_rows_are_as_long_as_trainings_found_them() -> None:
    """Rows of 60 tokens, where 30 were assumed: the same model took twice as long for as many rows, and will again."""
    graph = Graph()
    done, new = training(graph, 100), training(graph, 200, seed=1)
    assumed = Rates({}, CPU)
    finished = [Finished(done.id, graph, 2 * assumed.seconds(graph, done), False, "cpu", row_tokens=60.0)]
    said = measure(Timings(finished), assumed)
    assert said.assumed.row_tokens(graph, new) == 60
    assert said.rates["train", model_of(graph, new)].factor == pytest.approx(1.0)
    assert said.seconds(graph, new) == pytest.approx(4 * assumed.seconds(graph, done))


def test_cpus_say_nothing_of_gpus_and_a_stage_counts_once() -> None:
    graph = Graph()
    stage = training(graph, 100)
    both = [Finished(stage.id, graph, 5.0, False, "cpu"), Finished(stage.id, graph, 5.0, False, "cpu")]
    said = measure(Timings(both), Rates({}, GPU))
    assert (said.elsewhere, dict(said.recorded)) == (1, {})
    assert measure(Timings(both), Rates({}, CPU)).rates["train", model_of(graph, stage)].stages == 1


def test_a_worker_with_half_of_the_cores_takes_twice_as_long() -> None:
    """What one worker on two cores took, planned for two workers side by side; and the other way round."""
    graph = Graph()
    done, new = training(graph, 100), training(graph, 200)
    one, two = (Rates({}, CPU.model_copy(update={"cpus_per_node": 2, "slots": slots})) for slots in (None, 2))
    for cores, rates, seconds in ((2, one, 60.0), (2, two, 120.0), (1, two, 60.0), (1, one, 30.0), (None, two, 60.0)):
        said = measure(Timings([Finished(done.id, graph, 60.0, False, "cpu", cores)]), rates)
        assert said.seconds(graph, done) == seconds
        assert said.seconds(graph, new) == pytest.approx(2 * seconds)


def test_what_cost_files_say(tmp_path: Path, folder: RunDir) -> None:
    """A cohort's time is shared, ranks on GPUs count, a training that was gone on with counts from its first step, and
    what cannot be read is named."""
    models = models_of(folder)
    found = timings.read(tmp_path / "runs", models)
    kinds = [one.graph.stages[one.id].kind for one in found.finished]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        kind: len(list(folder.path.glob(f"{kind}/*/cost.json"))) for kind in ("train", "eval")
    }
    assert timings.read(tmp_path / "runs", {"another model"}).finished == []
    resolved = json.loads(folder.resolved.read_text())
    folder.resolved.write_text(json.dumps({**resolved, "runs": [], "stages": resolved["stages"][:2]}))
    assert {one.id for one in timings.read(tmp_path / "runs", models).finished} == {one.id for one in found.finished}, (
        "of parts asked for before, too"
    )

    one = next(one for one in found.finished if one.graph.stages[one.id].kind == "train")
    place = folder.at("train", one.id)
    cost = json.loads(place.cost.read_text())
    place.cost.write_text(json.dumps({**cost, "seconds": 1000.0, "gpu_seconds": 2000.0, "ranks": 2, "cohort": 4}))
    changed = {two.id: two for two in timings.read(tmp_path / "runs", models).finished}[one.id]
    assert (changed.seconds, changed.on_gpu) == (500.0, True)
    place.cost.write_text(json.dumps({**cost, "seconds": 1.0}))
    assert {two.id: two for two in timings.read(tmp_path / "runs", models).finished}[one.id].seconds == cost["seconds"]

    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "resolved.json").write_text("{")
    assert "not JSON" in timings.read(tmp_path / "runs", models).unread[0]


@pytest.mark.usefixtures("with_data")
def test_stages_of_a_plan_are_known_by_name(tmp_path: Path, folder: RunDir) -> None:
    """A folder's name is the id of its stage: times are the same, and what the specs on disk say does not matter."""
    opened = open_study(tmp_path / "study.yaml", ["seed=[0, 1]"], tmp_path / "runs")
    graph, models = opened.expansion.graph, opened.model_names()
    planned = timings.read(tmp_path / "runs", models, graph)
    assert said(planned) == said(timings.read(tmp_path / "runs", models))
    others = {id_ for id_, *_ in said(planned)} - graph.stages.keys()
    assert 0 < len(others) < len(planned.finished), "seed 2 is no part of the plan"
    assert all(one.graph.stages[one.id] is graph.stages[one.id] for one in planned.finished if one.id not in others)

    resolved = json.loads(folder.resolved.read_text())
    edited = next(stage for stage in resolved["stages"] if stage["kind"] == "train" and stage["id"] in graph.stages)
    edited["spec"]["seed"] += 1
    folder.resolved.write_text(json.dumps(resolved))
    assert timings.read(tmp_path / "runs", models).finished == []
    assert said(timings.read(tmp_path / "runs", models, graph)) == said(planned)


def said(times: Timings) -> set[tuple[object, ...]]:
    assert times.unread == []
    return {(one.id, one.seconds, one.on_gpu, one.device, one.cores) for one in times.finished}


@pytest.mark.parametrize("threads", ["2", 0, -1, 1.5])
def test_cores_of_a_foreign_cost_file_are_no_number(threads: object, tmp_path: Path, folder: RunDir) -> None:
    place = next(folder.path.glob("train/*/cost.json"))
    place.write_text(json.dumps({**json.loads(place.read_text()), "threads": threads}))
    (unread,) = timings.read(tmp_path / "runs", models_of(folder)).unread
    assert unread.startswith(f"{place}: damaged or foreign file, ignored: threads")


@pytest.mark.usefixtures("with_data", "folder")
def test_a_plan_says_how_many_runs_its_times_rest_on(tmp_path: Path) -> None:
    """Three seeds are done and two more are asked for: their times are those of the others."""
    opened = open_study(tmp_path / "study.yaml", ["seed=[0, 1, 2, 3, 4, 5, 6, 7]"], tmp_path / "runs")
    plan = opened.plan(CPU)
    facts = plan_view.to_json(opened.expansion, plan, opened.model_names())
    assert facts["time"]["stages"]["rate"] > 0
    assert (facts["time"]["stages"]["recorded"], facts["time"]["stages"]["assumed"]) == (0, 0), (
        "what is recorded is done"
    )
    assert all(model["measured"]["train"]["stages"] > 0 for model in facts["models"])
    trained = [
        cost
        for job in plan.jobs
        for id_, cost in zip(job.stages, job.costs, strict=True)
        if opened.expansion.graph.stages[id_].kind == "train"
    ]
    assert 10 < min(trained) < max(trained) < 20, "invented trainings take 20 to 40 s on one core; a worker has two"
    said = plan_view.text("synthetic", facts)
    assert f"{facts['models'][0]['measured']['train']['stages']} runs" in said
    on_gpus = opened.plan(GPU)
    facts = plan_view.to_json(opened.expansion, on_gpus, opened.model_names())
    assert facts["time"]["stages"]["rate"] == 0
    assert "finished stages say nothing here: they did not run on a GPU" in plan_view.text("synthetic", facts)
    whole = opened.plan(CPU, anew=True)
    assert (
        whole.durations.origins(opened.expansion.graph, (id_ for job in whole.jobs for id_ in job.stages))["recorded"]
        > 0
    )


def test_nothing_measured_is_what_is_assumed() -> None:
    graph = Graph()
    stage, assumed = training(graph, 100), Rates({}, CPU)
    assert Durations(assumed).seconds(graph, stage) == assumed.seconds(graph, stage)
