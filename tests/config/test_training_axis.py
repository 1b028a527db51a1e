"""Lists under `train` are an axis of a study: labels, cells, ids, and what is refused."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from p2p_dist.config import training_axis
from p2p_dist.config.expand import Run
from p2p_dist.errors import UserError
from p2p_dist.scheduling.study import Study, open_study

pytestmark = pytest.mark.usefixtures("with_data")
STUDY = "name: one\ntask: rotten_tomatoes\nmodel: tiny\nattack: [none, badnets]\n"


def load(tmp_path: Path, train: str, more: str = "", *overrides: str) -> Study:
    path = tmp_path / "study.yaml"
    path.write_text(f"{STUDY}{more}train: {train}\n")
    return open_study(path, overrides, tmp_path / "runs")


def runs_of(study: Study) -> Sequence[Run]:
    return study.expansion.runs


def test_lists_under_train_make_one_run_per_combination(tmp_path) -> None:
    study = load(tmp_path, "{learning_rate: [1e-4, 2e-4], lora: {r: [4, 8], alpha: 8}}", "seed: [0, 1]\n")
    runs = runs_of(study)
    assert [run.cell["training"] for run in runs[::2]] == 2 * [
        "learning_rate=0.0001 lora.r=4",
        "learning_rate=0.0001 lora.r=8",
        "learning_rate=0.0002 lora.r=4",
        "learning_rate=0.0002 lora.r=8",
    ]
    assert list(runs[0].cell) == ["task", "model", "attack", "defense", "training", "seed"]
    assert len({run.evaluation for run in runs}) == len(runs) == 16
    by_id = {stage.id: stage for stage in study.expansion.graph.stages.values()}
    assert {by_id[run.train].spec["train"]["lora"]["r"] for run in runs} == {4, 8}


def test_a_run_has_the_id_of_the_study_without_a_list(tmp_path) -> None:
    """Ids depend on the training alone, and a baseline is the clean model of the same training."""
    alone = {run.cell["attack"]: run for run in runs_of(load(tmp_path, "{lora: {r: 4}}"))}
    assert "training" not in alone["none"].cell
    both = runs_of(load(tmp_path, "{lora: {r: [8, 4]}}"))
    of_four = {run.cell["attack"]: run for run in both if run.cell["training"] == "lora.r=4"}
    assert {key: run.evaluation for key, run in of_four.items()} == {key: run.evaluation for key, run in alone.items()}
    assert of_four["badnets"].floor == alone["badnets"].floor


def test_values_at_their_default_have_labels_too(tmp_path) -> None:
    """An option that is left out of ids at its default is named in the cell all the same."""
    runs = runs_of(load(tmp_path, "{image_tokens: [64, 32], lora: {layers: [null, 1]}}"))
    assert [run.cell["training"] for run in runs[:4]] == [
        "image_tokens=64 lora.layers=null",
        "image_tokens=64 lora.layers=1",
        "image_tokens=32 lora.layers=null",
        "image_tokens=32 lora.layers=1",
    ]


def test_override_with_a_list_and_exclude_by_training(tmp_path) -> None:
    rule = "exclude: [{attack: badnets, training: lora.r=8}]\n"
    study = load(tmp_path, "{lora: {r: 4}}", rule, "train.lora.r=[4, 8]")
    cells = [(run.cell["attack"], run.cell["training"]) for run in runs_of(study)]
    assert cells == [("none", "lora.r=4"), ("none", "lora.r=8"), ("badnets", "lora.r=4")]


def test_names_of_layers_are_one_value_and_lists_of_them_several(tmp_path) -> None:
    one = load(tmp_path, "{lora: {target_modules: [q_proj, v_proj]}}")
    assert [training.lora.target_modules for training in one.spec.trainings] == [("q_proj", "v_proj")]
    two = load(tmp_path, "{lora: {target_modules: [[q_proj, v_proj], all-linear]}}")
    assert training_axis.labels(two.spec.trainings) == [
        "lora.target_modules=q_proj+v_proj",
        "lora.target_modules=all-linear",
    ]


@pytest.mark.parametrize(
    ("train", "what"),
    [
        ("{lora: {r: [4, 4]}}", "the list has 4 twice"),
        ("{learning_rate: []}", "got an empty list"),
        ("{lora: {r: [4, many]}}", "got 'many'"),
        ("{lora: {rank: [4, 8]}}", "unknown key 'rank'"),
        ("[1]", "got [1]"),
    ],
)
def test_bad_lists_are_refused_with_their_line(tmp_path, train: str, what: str) -> None:
    with pytest.raises(UserError) as error:
        load(tmp_path, train)
    (problem,) = error.value.problems
    assert what in problem.what
    assert "study.yaml:5 (train" in problem.where
