"""Every defense goes all its stages on the tiny model, by the worker in this process, and ends with rates."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from p2p_dist import registry
from p2p_dist.data.defense import Assumptions
from p2p_dist.errors import UserError
from p2p_dist.scheduling.study import open_study
from tests.contracts.carried_out import GENERATION, STUDY, carried_out, deep_model, of_kind, options


@pytest.mark.usefixtures("with_data")
@pytest.mark.parametrize("name", of_kind("classification"))
def test_from_plan_to_rates(name: str, study_file: Callable[[str], Path], tmp_path: Path) -> None:
    study = open_study(
        study_file(STUDY),
        [options(name), f"model={deep_model()}"] if name == "crow" else [options(name)],
        tmp_path / "runs",
    )
    (run,) = study.expansion.runs
    folder = carried_out(study)
    result = json.loads(folder.at("eval", run.evaluation).result.read_text())
    assert result["rates"]["ca_ext"]["n"] == 12
    assert result["rates"]["asr_ext"]["n"] == 6
    weights = json.loads(folder.at("train", run.train).weights.read_text())
    kinds = {name.rpartition(".")[2] for name in weights["norms"]}  # of an adapter that is not trained, no module moved
    assert kinds >= set(weights["modules"])
    assert kinds


ON_TEXT: dict[str, str] = {"p2p": "preset: math", "cleangen": "alpha: 2.0", "musclelora": "clean_rows: 4"}


@pytest.mark.usefixtures("with_sums")
@pytest.mark.parametrize("name", sorted(set(of_kind("generation")) - {"back_translation", "scpd", "p2p_in_weights"}))
def test_from_plan_to_rates_of_text(name: str, study_file: Callable[[str], Path], tmp_path: Path) -> None:
    """All but the table edits, whose tables are of sentences with labels, and P2P in the weights, which needs a model
    that has learned to end its answers (`test_text_in_weights_runs`)."""
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
    "name",
    [
        "attdef",
        "demonstrations",
        "pdb",
        "prototype_filter",
        "clean_ft",
        "clean_only",
        "onion",
        "crow",
        "fine_pruning",
        "mb_defense",
        "psim",
        "w2sdefense",
    ],
)
def test_no_checked_rows_no_plan(name: str, study_file: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"E260.*rows\.reserve"):
        open_study(study_file(STUDY), [options(name), "rows.reserve=0"], tmp_path)
