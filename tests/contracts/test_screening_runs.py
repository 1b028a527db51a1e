"""Screening from plan to rates: rounds, folds, rows with extended labels, and the control."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from p2p_dist.results import datastore, scorestore
from p2p_dist.scheduling.study import open_study
from tests.contracts.carried_out import STUDY, carried_out


@pytest.mark.usefixtures("with_data")
def test_screened_p2p_from_plan_to_rates(study_file: Callable[[str], Path], tmp_path: Path) -> None:
    """It stops by its own rule, takes as many benign rows of every class, and is told nothing that it must not know."""
    screening = "screening: {check_every: 1, probe: 10, on_failed_screening: go_on, checkpoints: 2, draws: 2}"
    study = open_study(
        study_file(STUDY),
        [f"defense={{name: p2p, benign_source: screened, {screening}}}", "rows.reserve=0"],
        tmp_path / "runs",
    )
    (run,) = study.expansion.runs
    folder = carried_out(study)
    counts = json.loads(folder.at("eval", run.evaluation).result.read_text())["counts"]
    assert counts["reads_origin"] is False
    assert counts["clean_rows_used"] == 0
    assert counts["train"]["injected"] == {"2": 5, "3": 5}
    keys = {"step", "reached", "agreement", "checkpoints", "majority_answer", "majority_given"}
    assert [set(stop) for stop in counts["screening"]] == [keys] * 2
    seen = sum(sum(of.values()) for part in ("trusted", "not_trusted") for of in counts[part].values())
    assert seen == 48
    screenings = [stage for stage in study.expansion.graph.stages.values() if stage.kind == "score"]
    assert len(screenings) == 2
    for stage in screenings:
        lines = folder.stage(stage).all_metrics()
        done = [line["rows"] for line in lines]
        assert done == sorted(done)
        assert all(line["rows"] <= line["of"] for line in lines)
        assert lines[-1]["rows"] == lines[-1]["of"], "a screening that is over has nothing left to do"
        assert len(set(done)) > 2, "rows that are judged are progress too"


@pytest.mark.usefixtures("with_data")
def test_a_last_model_that_two_looks_see_counts_once(
    study_file: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three steps, a check at each and the rule met at the first: three models, and no fourth at the end."""
    monkeypatch.setattr("p2p_dist.scores.early.agreement", lambda rows: [1.0, 1.0])
    screening = "screening: {check_every: 1, probe: 10, on_failed_screening: go_on, checkpoints: 5}"
    study = open_study(
        study_file(STUDY),
        [f"defense={{name: p2p, benign_source: screened, {screening}}}", "rows.reserve=0"],
        tmp_path / "runs",
    )
    folder = carried_out(study)
    (score,) = (stage for stage in study.expansion.graph.stages.values() if stage.kind == "score")
    stop = scorestore.read(folder.stage(score))["screening"]["stop"]
    assert (stop["step"], stop["checkpoints"]) == (1, 3)


@pytest.mark.usefixtures("with_data")
def test_cross_fitted_screening_judges_unseen_rows_once(study_file: Callable[[str], Path], tmp_path: Path) -> None:
    """Cross fitted screening judges every row once and by a model that has not seen it."""
    screening = "screening: {check_every: 1, probe: 10, on_failed_screening: go_on, folds: 2}"
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
    screening = "screening: {check_every: 1, probe: 10, on_failed_screening: go_on"
    once, twice = (f"{{name: p2p, benign_source: screened, {screening}{more}}}}}" for more in ("", ", rounds: 2"))
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
    twice = "screening: {check_every: 1, probe: 10, on_failed_screening: go_on, rounds: 2}"
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
    looks = "check_every: 1, probe: 10, on_failed_screening: go_on"
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
