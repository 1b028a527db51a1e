"""Every defense goes all its stages on the tiny model, by the worker in this process, and ends with rates."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from p2p_dist import registry
from p2p_dist.config.model import resolve_model
from p2p_dist.data.defense import Assumptions
from p2p_dist.data.example import Kind
from p2p_dist.errors import Exit, UserError
from p2p_dist.modeling.random_init import random_model
from p2p_dist.results import datastore, scorestore
from p2p_dist.results.rundir import RunDir
from p2p_dist.scheduling.study import Study, configs_dir, open_study
from p2p_dist.worker.__main__ import main as worker_main
from tests.contracts.test_plugins import paraphrase_table

STUDY = """
name: one
task: sst2
model: tiny
attack: {name: badnets, rate: 0.1}
rows: {train: 48, test: 12, reserve: 12}
train: {learning_rate: 1e-2, num_train_epochs: 1, global_batch: 16, dtype: float32, lora: {r: 2}}
"""
GENERATION = """
name: one
task: {name: gsm8k, max_new_tokens: 6}
model: tiny
attack: {name: badnets, rate: 0.1, target_response: "0.1"}
rows: {train: 48, test: 12, reserve: 12, balanced: false}
train: {learning_rate: 1e-2, num_train_epochs: 1, global_batch: 16, dtype: float32, lora: {r: 2}}
"""
SPECIAL: dict[str, str] = {"onion": "language_model: tiny, "}


def options(name: str) -> str:
    fields = registry.load("defenses", name).model_fields
    table = f"table: {paraphrase_table()}, min_coverage: 0.0, " if "table" in fields else ""
    return f"defense={{name: {name}, {table}{SPECIAL.get(name, '')}}}"


@pytest.fixture
def with_sums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invented sums as this process's `$P2P_DIST_DATA`."""
    for split, numbers in (("train", range(200, 280)), ("test", range(20))):
        rows = [
            {"text": f"a box of {n} and a box of {n + 1}", "solution": f"{n} + {n + 1}", "answer": str(2 * n + 1)}
            for n in numbers
        ]
        path = tmp_path / "data" / "gsm8k" / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("P2P_DIST_DATA", str(tmp_path / "data"))


def of_kind(kind: Kind) -> list[str]:
    return [name for name in registry.names("defenses") if kind in registry.load("defenses", name).kinds]


@cache
def deep_model() -> Path:
    """A folder with a tiny model of five layers, for what looks between them."""
    folder = Path(mkdtemp())
    shape = {**resolve_model("tiny", configs_dir() / "models").identity["shape"], "layers": 5}
    for part in random_model(shape):
        part.save_pretrained(folder)
    return folder


def carried_out(study: Study) -> RunDir:
    """Every stage of a study, done in its order."""
    graph, folder = study.expansion.graph, study.folder
    folder.write_specs(graph)
    for stage in graph.stages.values():
        assert worker_main(["--study-dir", str(folder.path), "--stages", stage.id]) == Exit.OK
        assert folder.stage(stage).is_done()
    return folder


@pytest.mark.usefixtures("with_data")
@pytest.mark.parametrize("name", of_kind("classification"))
def test_from_plan_to_rates(name: str, study_file: Callable[[str], Path], tmp_path: Path) -> None:
    study = open_study(
        study_file(STUDY),
        [options(name), f"model={deep_model()}"] if name == "crow" else [options(name)],
        tmp_path / "runs",
    )
    (run,) = study.expansion.runs
    result = json.loads(carried_out(study).at("eval", run.evaluation).result.read_text())
    assert result["rates"]["ca_ext"]["n"] == 12
    assert result["rates"]["asr_ext"]["n"] == 6


ON_TEXT: dict[str, str] = {"p2p": "preset: math", "cleangen": "alpha: 2.0"}


@pytest.mark.usefixtures("with_sums")
@pytest.mark.parametrize("name", sorted(set(of_kind("generation")) - {"back_translation", "scpd"}))
def test_from_plan_to_rates_of_text(name: str, study_file: Callable[[str], Path], tmp_path: Path) -> None:
    """All but the table edits, whose tables are of sentences with labels."""
    more = [
        f"defense={{name: {name}, {ON_TEXT.get(name, '')}}}",
        *([f"model={deep_model()}"] if name == "crow" else []),
    ]
    study = open_study(study_file(GENERATION), more, tmp_path / "runs")
    (run,) = study.expansion.runs
    rates = json.loads(carried_out(study).at("eval", run.evaluation).result.read_text())["rates"]
    assert (rates["ca_ext"]["n"], rates["asr_ext"]["n"]) == (12, 12)


@pytest.mark.usefixtures("with_sums")
@pytest.mark.parametrize("more", ["", ", reference: tiny"])
def test_cleangen_replaces_tokens_and_counts_answers(
    more: str, study_file: Callable[[str], Path], tmp_path: Path
) -> None:
    """By the run's own base tuned on checked rows, which are asked for, or by a model that is named, which needs
    none."""
    study = open_study(
        study_file(GENERATION),
        [f"defense={{name: cleangen, alpha: 1.01{more}}}", f"rows.reserve={0 if more else 12}"],
        tmp_path / "runs",
    )
    (run,) = study.expansion.runs
    stages = study.expansion.graph.stages
    assert (len(stages), len([stage for stage in stages.values() if stage.kind == "train"])) == (
        (3, 1) if more else (5, 2)
    )
    folder = carried_out(study)
    rates = json.loads(folder.at("eval", run.evaluation).result.read_text())["rates"]
    lines = [
        json.loads(line)
        for line in (folder.at("eval", run.evaluation).predictions / "clean.jsonl").read_text().splitlines()
    ]
    assert rates["replaced_rate"] == {
        "k": sum(line["replaced"] > 0 for line in lines),
        "n": 12,
        "rate": sum(line["replaced"] > 0 for line in lines) / 12,
    }
    assert rates["replaced_rate"]["k"] > 0
    assert rates["replaced_rate_triggered"]["n"] == 12


@pytest.mark.usefixtures("with_data")
def test_cleangen_is_refused_where_there_is_nothing_to_decode(
    study_file: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"E260.*answered with a label"):
        open_study(study_file(STUDY), ["defense=cleangen"], tmp_path)


@pytest.mark.usefixtures("with_sums")
def test_cleangen_without_a_reference_is_refused(study_file: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"E260.*rows\.reserve"):
        open_study(study_file(GENERATION), ["defense=cleangen", "rows.reserve=0"], tmp_path)


@pytest.mark.usefixtures("with_data")
def test_screened_p2p_from_plan_to_rates(study_file: Callable[[str], Path], tmp_path: Path) -> None:
    """It stops by its own rule, takes as many benign rows of every class, and is told nothing that it must not know."""
    screening = "screening: {check_every: 1, probe: 10, checkpoints: 2, draws: 2}"
    study = open_study(
        study_file(STUDY),
        [f"defense={{name: p2p, benign_source: screened, {screening}}}", "rows.reserve=0"],
        tmp_path / "runs",
    )
    (run,) = study.expansion.runs
    counts = json.loads(carried_out(study).at("eval", run.evaluation).result.read_text())["counts"]
    assert counts["reads_origin"] is False
    assert counts["clean_rows_used"] == 0
    assert counts["train"]["injected"] == {"2": 5, "3": 5}
    assert [set(stop) for stop in counts["screening"]] == [{"step", "reached", "agreement", "checkpoints"}] * 2
    seen = sum(sum(of.values()) for part in ("trusted", "not_trusted") for of in counts[part].values())
    assert seen == 48


@pytest.mark.usefixtures("with_data")
def test_cross_fitted_screening_judges_unseen_rows_once(study_file: Callable[[str], Path], tmp_path: Path) -> None:
    """Cross fitted screening judges every row once and by a model that has not seen it."""
    screening = "screening: {check_every: 1, probe: 10, folds: 2}"
    study = open_study(
        study_file(STUDY),
        [f"defense={{name: p2p, benign_source: screened, {screening}}}", "rows.reserve=0"],
        tmp_path / "runs",
    )
    folder, graph = carried_out(study), study.expansion.graph
    judged = [
        set(scorestore.read(folder.stage(stage))["train"]) for stage in graph.stages.values() if stage.kind == "score"
    ]
    assert [len(ids) for ids in judged] == [24, 24]
    assert not judged[0] & judged[1]
    (run,) = study.expansion.runs
    counts = json.loads(folder.at("eval", run.evaluation).result.read_text())["counts"]
    assert len(counts["screening"]) == 2
    assert counts["train"]["injected"] == {"2": 5, "3": 5}
    assert all(stop["step"] <= 2 for stop in counts["screening"]), "each trains on 24 rows, in two steps of 16"


@pytest.mark.usefixtures("with_data")
def test_a_second_round_of_screening_asks_the_defended_model(study_file: Callable[[str], Path], tmp_path: Path) -> None:
    """As it is asked when deployed; the first round is the one that a study without a second has, and is trained
    once."""
    once = "{name: p2p, benign_source: screened, screening: {check_every: 1, probe: 10}}"
    twice = "{name: p2p, benign_source: screened, screening: {check_every: 1, probe: 10, rounds: 2}}"
    study = open_study(study_file(STUDY), [f"defense=[{once}, {twice}]", "rows.reserve=0"], tmp_path / "runs")
    first, second = study.expansion.runs
    graph, folder = study.expansion.graph, carried_out(study)
    assert sum(stage.kind == "train" for stage in graph.stages.values()) == 2
    (score,) = (
        stage for stage in graph.stages.values() if stage.kind == "score" and stage.spec["method"]["name"] == "labels"
    )
    assert score.reads["adapter"] == first.train
    asked = datastore.read(folder.at("data", score.reads["rows"]))
    assert {(row.prefix, row.cue) for row in asked.train} == {("The query currently entered is: ", "Answer: ")}
    attacked = datastore.read(folder.at("data", graph.stages[score.reads["rows"]].reads["rows"]))
    assert {row.id: row.label for row in asked.train} == {row.id: row.label + 2 for row in attacked.train}
    counts = json.loads(folder.at("eval", second.evaluation).result.read_text())["counts"]
    said = scorestore.read(folder.stage(score))["train"].values()
    agreed = sum(line["scores"][line["label"]] > line["scores"][5 - line["label"]] for line in said)
    seen = sum(sum(labels.values()) for labels in counts["trusted"].values())
    assert agreed <= seen <= agreed + 10
    assert counts["train"]["injected"] == {"2": 5, "3": 5}


@pytest.mark.usefixtures("with_data")
@pytest.mark.parametrize("target", [0, 1])
def test_rows_with_extended_labels_are_not_trusted(
    target: int, study_file: Callable[[str], Path], tmp_path: Path
) -> None:
    """Who knows the scheme writes extended labels into his rows. They are no class of the task: screening does not wait
    for them."""
    knows = "{benign_trigger: 'X: ', extended_label: true}"
    attack = f"attack={{name: badnets, rate: 0.1, target_label: {target}, knows: {knows}}}"
    twice = "screening: {check_every: 1, probe: 10, rounds: 2}"
    defenses = f"defense=[{{name: p2p, benign_source: screened, {twice}}}, {{name: trusted_only, {twice}}}]"
    study = open_study(study_file(STUDY), [attack, defenses, "rows.reserve=0"], tmp_path / "runs")
    graph, folder = study.expansion.graph, carried_out(study)
    for run in study.expansion.runs:
        trusted = datastore.read(folder.at("data", graph.stages[run.train].reads["rows"])).counts["trusted"]
        assert set().union(*trusted.values()) == {"0", "1"}
        assert "poisoned" not in trusted
    stops = [
        scorestore.read(folder.stage(stage))["screening"]["stop"]
        for stage in graph.stages.values()
        if stage.spec.get("method", {}).get("name") == "early_trust"
    ]
    assert [len(stop["agreement"]) for stop in stops] == [2]


@pytest.mark.usefixtures("with_data")
def test_the_control_trains_on_trusted_rows_and_nothing_else(study_file: Callable[[str], Path], tmp_path: Path) -> None:
    """It shares the screening with P2P; its second round is asked by the plain prompt and keeps what is answered as
    given."""
    looks = "check_every: 1, probe: 10"
    p2p = f"{{name: p2p, benign_source: screened, screening: {{{looks}}}}}"
    once, twice = (f"{{name: trusted_only, screening: {{{looks}{more}}}}}" for more in ("", ", rounds: 2"))
    study = open_study(study_file(STUDY), [f"defense=[{p2p}, {once}, {twice}]", "rows.reserve=0"], tmp_path / "runs")
    graph, folder = study.expansion.graph, carried_out(study)
    assert sorted(stage.spec["method"]["name"] for stage in graph.stages.values() if stage.kind == "score") == [
        "early_trust",
        "labels",
    ]
    trained = [
        datastore.read(folder.at("data", graph.stages[run.train].reads["rows"])) for run in study.expansion.runs[1:]
    ]
    attacked = {
        row.id: row
        for row in datastore.read(
            folder.at("data", graph.stages[study.expansion.runs[1].evaluation].reads["rows"])
        ).train
    }
    assert all(attacked[row.id] == row for built in trained for row in built.train)
    assert [built.counts["trusted"] for built in trained] == [built.counts["train"] for built in trained]
    (score,) = (
        stage for stage in graph.stages.values() if stage.kind == "score" and stage.spec["method"]["name"] == "labels"
    )
    said = scorestore.read(folder.stage(score))["train"]
    agreed = {id_ for id_, line in said.items() if line["scores"][line["label"]] > line["scores"][1 - line["label"]]}
    assert agreed <= {row.id for row in trained[1].train}
    assert len(trained[1].train) <= len(agreed) + 2


@pytest.mark.usefixtures("with_data")
def test_reparametrised_moddef_from_plan_to_rates(study_file: Callable[[str], Path], tmp_path: Path) -> None:
    study = open_study(
        study_file(STUDY), ["defense={name: moddef, variant: reparam, r: 2, epochs: 1}"], tmp_path / "runs"
    )
    (run,) = study.expansion.runs
    assert json.loads(carried_out(study).at("eval", run.evaluation).result.read_text())["rates"]["asr_ext"]["n"] == 6


@pytest.mark.usefixtures("with_data")
def test_w2sdefense_has_a_clean_teacher_and_an_attacked_student(
    study_file: Callable[[str], Path], tmp_path: Path
) -> None:
    study = open_study(study_file(STUDY), ["defense=[none, w2sdefense]"], tmp_path / "runs")
    undefended, defended = (run.train for run in study.expansion.runs)
    student = study.expansion.graph.stages[defended]
    teacher = study.expansion.graph.stages[student.reads["teacher"]]
    assert student.reads["start"] == undefended
    assert teacher.reads == {"rows": student.reads["rows"]}
    assert teacher.spec["train"] == study.expansion.graph.stages[undefended].spec["train"]


@pytest.mark.usefixtures("with_data")
def test_a_teacher_is_refused_where_weights_are_poisoned(study_file: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"E241.*w2sdefense"):
        open_study(
            study_file(STUDY), ["defense=w2sdefense", "attack={name: badnets, rate: 0.1, via: weights}"], tmp_path
        )


@pytest.mark.usefixtures("with_sums")
def test_a_reference_is_refused_where_weights_are_poisoned(study_file: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"E241.*cleangen"):
        open_study(
            study_file(GENERATION),
            ["defense=cleangen", 'attack={name: badnets, rate: 0.1, target_response: "0.1", via: weights}'],
            tmp_path,
        )


@pytest.mark.parametrize("name", registry.names("defenses"))
def test_it_says_what_it_needs(name: str) -> None:
    needs = registry.load("defenses", name).default_assumptions
    assert isinstance(needs, Assumptions)
    assert name == "none" or needs.source


@pytest.mark.parametrize(
    ("name", "options", "clean_rows"),
    [
        ("p2p", {}, "ratio x training rows"),
        ("p2p", {"benign_source": "screened"}, "none"),
        ("p2p", {"benign_source": "random_from_D"}, "none"),
        ("p2p", {"benign_source": "disjoint"}, "the attacker's notes: which rows are clean"),
        ("onion", {"bar": -10.0}, "none"),
        ("psim", {"above": 0.7}, "none"),
        ("cleangen", {"reference": "tiny"}, "none"),
        ("crow", {}, "ratio x training rows"),
        ("w2sdefense", {}, "ratio x training rows"),
    ],
)
def test_what_it_needs_follows_its_options(name: str, options: dict[str, Any], clean_rows: str) -> None:
    one = registry.load("defenses", name)(**options)
    assert one.assumptions().clean_rows == clean_rows
    assert one.assumptions().source == one.default_assumptions.source


@pytest.mark.parametrize(("screening", "models"), [({}, "none"), ({"rounds": 2}, "the adapter of the first round")])
def test_a_second_round_of_screening_is_a_further_model(screening: dict[str, int], models: str) -> None:
    assert (
        registry.load("defenses", "p2p")(benign_source="screened", screening=screening).assumptions().extra_models
        == models
    )


@pytest.mark.usefixtures("with_data")
@pytest.mark.parametrize(
    "name", ["pdb", "clean_ft", "clean_only", "onion", "crow", "fine_pruning", "mb_defense", "psim", "w2sdefense"]
)
def test_no_checked_rows_no_plan(name: str, study_file: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"E260.*rows\.reserve"):
        open_study(study_file(STUDY), [options(name), "rows.reserve=0"], tmp_path)
