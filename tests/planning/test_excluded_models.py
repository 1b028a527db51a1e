"""Checks of models look at what a study has together, and say what is not known of a model that is not here."""

import json
from pathlib import Path

import pytest

from p2p_dist.config.expand import kept
from p2p_dist.config.load import load_study
from p2p_dist.config.model import ModelRef, resolve_model
from p2p_dist.config.study import StudySpec
from p2p_dist.config.training_axis import TRAINING
from p2p_dist.errors import UserError
from p2p_dist.planning.feasibility import length_problems
from p2p_dist.scheduling.feasibility import refuse_infeasible
from p2p_dist.scheduling.model_checks import check_images, check_towers
from p2p_dist.scheduling.model_facts import layers_of, reads_images
from p2p_dist.scheduling.study import configs_dir, open_study

STUDY = """
name: both
task: rotten_tomatoes
model: [tiny, tiny_vl]
attack: {name: badnets, rate: 0.05}
defense: [none, p2p]
rows: {train: 64, test: 20, reserve: 20}
train: {global_batch: 16, method: [lora, full]}
"""
HUB = "org/vision@" + "0" * 40
TOWER = {
    "model_type": "qwen2_5_vl",
    "vision_config": {"hidden_size": 8},
    "text_config": {
        key: 8 for key in ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    },
}


def study(tmp_path: Path, *overrides: str) -> StudySpec:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return load_study(path, overrides, configs_dir() / "models")


@pytest.mark.usefixtures("with_data")
def test_a_vision_model_is_excluded_from_full_training(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    for rule in (
        "[]",
        "[{model: tiny_vl, training: method=full, defense: p2p}]",
        "[{model: tiny, training: method=full}]",
    ):
        with pytest.raises(UserError, match=r"E297.*tiny_vl.*exclude \{model: tiny_vl, training: method=full\}"):
            open_study(path, [f"exclude={rule}"], tmp_path / "runs")
    opened = open_study(path, ["exclude=[{model: tiny_vl, training: method=full}]"], tmp_path / "runs")
    assert {(run.cell["model"], run.cell["training"]) for run in opened.expansion.runs} == {
        ("tiny", "method=lora"),
        ("tiny", "method=full"),
        ("tiny_vl", "method=lora"),
    }
    assert refuse_infeasible(opened)


def test_what_is_kept_has_a_cell_that_no_rule_names(tmp_path: Path) -> None:
    spec = study(tmp_path, "exclude=[{model: tiny, seed: 1}, {model: tiny, seed: 0, defense: none}]", "seed=[0, 1]")
    pairs = [(model.name, seed) for model, seed in kept(spec, "model", "seed")]
    assert pairs == [("tiny", 0), ("tiny_vl", 0), ("tiny_vl", 1)]
    assert [training.method for (training,) in kept(spec, TRAINING)] == ["lora", "full"]


def test_images_are_for_the_models_that_read_them_in_a_cell(tmp_path: Path) -> None:
    tasks = "task=[{name: hateful_memes, source: rows}, rotten_tomatoes]"
    rule = "exclude=[{task: hateful_memes, model: tiny}]"
    with pytest.raises(UserError, match=r"E227.*hateful_memes carry images, which tiny cannot read"):
        check_images(kept(study(tmp_path, tasks), "task", "model"))
    check_images(kept(study(tmp_path, tasks, rule), "task", "model"))


def test_rows_are_as_long_as_those_of_a_kept_training(tmp_path: Path) -> None:
    lengths = ("train={max_length: [64, 256]}", "model=tiny")
    rule = "exclude=[{model: tiny, training: max_length=256}]"
    assert len(length_problems(study(tmp_path, *lengths), {"tiny": 128})) == 1
    assert length_problems(study(tmp_path, *lengths, rule), {"tiny": 128}) == []


def test_a_model_that_is_not_here_is_not_said_to_be_blind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its config.json nobody knows; with it, and without weights, both the tower and the shape are known."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    asked = (f"model={HUB}", "task={name: hateful_memes, source: rows}", "train.method=lora")
    with pytest.raises(UserError, match=r"E227.*whether org/vision reads them is not known.*config\.json"):
        check_images(kept(study(tmp_path, *asked), "task", "model"))
    folder = tmp_path / "hub" / "models--org--vision" / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(TOWER))
    (model,) = study(tmp_path, *asked).model
    assert (reads_images(model), layers_of(model)) == (True, 8)
    assert model.shape is not None
    check_images(kept(study(tmp_path, *asked), "task", "model"))
    with pytest.raises(UserError, match="E297"):
        check_towers(kept(study(tmp_path, f"model={HUB}", "train.method=full"), "model", TRAINING))


@pytest.mark.parametrize(
    ("config", "images", "layers"),
    [
        ('{"model_type": "qwen2_5_vl", "text_config": {"num_hidden_layers": 2}}', True, 2),
        ('{"model_type": "gpt2", "n_layer": 3}', False, 3),
        ('{"model_type": "llama", "num_hidden_layers": "4"}', False, None),
        ("[]", None, None),
        (None, None, None),
    ],
)
def test_facts_of_a_folder(config: str | None, images: bool | None, layers: int | None, tmp_path: Path) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    model = ModelRef("folder", {"source": "folder"}, {"path": str(tmp_path)})
    assert (reads_images(model), layers_of(model)) == (images, layers)


def test_facts_of_models_without_files() -> None:
    tower = resolve_model("tiny_vl", configs_dir() / "models")
    assert (reads_images(tower), layers_of(tower)) == (True, 2)
    gguf = ModelRef("file", {"source": "gguf", "sha256": "0"})
    assert (reads_images(gguf), layers_of(gguf)) == (False, None)


@pytest.mark.usefixtures("with_data")
def test_a_loss_between_layers_needs_three_of_them(tmp_path: Path) -> None:
    """Refused when it is planned, with a rule that helps."""
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    asked = ["train.method=lora", "defense=[none, {name: crow, ratio: 0.25}]", "model=[tiny_vl, random:qwen3-0.6b]"]
    with pytest.raises(UserError) as caught:
        refuse_infeasible(open_study(path, asked, tmp_path / "runs"))
    (problem,) = caught.value.problems
    assert "defense.1" in problem.where
    assert (problem.code, problem.what) == ("E266", "defense crow needs a model of 3 layers or more, and tiny_vl has 2")
    rule = problem.fix.partition(", or choose")[0].removeprefix("exclude ")
    refuse_infeasible(open_study(path, [*asked, f"exclude=[{rule}]"], tmp_path / "runs"))
