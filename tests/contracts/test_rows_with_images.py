"""Rows with images go from plan to rates on the tiny Qwen2.5-VL, and what cannot be done with them is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from examples.drawn_memes import draw
from p2p_dist.config.model import resolve_model
from p2p_dist.config.study import TrainSpec
from p2p_dist.data.patches import Patch
from p2p_dist.errors import UserError
from p2p_dist.modeling.base import load_base
from p2p_dist.modeling.image_processor import FILE
from p2p_dist.modeling.image_tokens import Images, embedded
from p2p_dist.modeling.random_init import random_model
from p2p_dist.results import datastore
from p2p_dist.scheduling.model_checks import check_towers
from p2p_dist.scheduling.study import configs_dir, open_study
from p2p_dist.worker.build_rows import build_study_rows
from tests.contracts.carried_out import carried_out

STUDY = """
name: memes
task: {name: hateful_memes, source: FOLDER}
model: tiny_vl
attack: {name: badnets, rate: 0.1}
defense: [none, p2p]
rows: {train: 40, test: 12, reserve: 10}
train: {learning_rate: 1e-2, num_train_epochs: 1, global_batch: 8, dtype: float32, lora: {r: 2}, image_tokens: 8,
        max_length: 160}
"""
IDENTITY = resolve_model("tiny_vl", configs_dir() / "models").identity


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """The tiny model as a saved one."""
    folder = tmp_path / "vl"
    for part in random_model(IDENTITY["shape"]):
        part.save_pretrained(folder)
    colours = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
    (folder / FILE).write_text(json.dumps({"patch_size": 14, "merge_size": 2, **colours}))
    return folder


def test_rows_with_images_from_plan_to_rates(memes: Path, study_file: Callable[[str], Path], tmp_path: Path) -> None:
    """Attacked and defended runs; adapters lie on the language model alone."""
    study = open_study(study_file(STUDY.replace("FOLDER", str(memes))), [], tmp_path / "runs")
    folder = carried_out(study)
    for run in study.expansion.runs:
        result = json.loads(folder.at("eval", run.evaluation).result.read_text())
        assert (result["rates"]["ca_ext"]["n"], result["rates"]["asr_ext"]["n"]) == (12, 6)
    for stage in study.expansion.graph.stages.values():
        if stage.kind == "train":
            target = folder.stage(stage)
            assert "visual" in json.loads((target.adapter / "adapter_config.json").read_text())["exclude_modules"]
            losses = [json.loads(line)["loss"] for line in target.metrics.read_text().splitlines()]
            assert all(0 < loss < 20 for loss in losses)


def test_text_answers_to_images_from_plan_to_rates(
    memes: Path, study_file: Callable[[str], Path], tmp_path: Path
) -> None:
    """Rows of one's own, with a column of images and one of answers."""
    overrides = [
        f"task={{name: custom, source: '{memes}', image_column: img, response_column: answer, max_new_tokens: 3}}",
        "attack={name: badnets, rate: 0.1, target_response: nothing}",
        "defense=none",
        "rows.balanced=false",
    ]
    study = open_study(study_file(STUDY.replace("FOLDER", str(memes))), overrides, tmp_path / "runs")
    folder = carried_out(study)
    (run,) = study.expansion.runs
    result = json.loads(folder.at("eval", run.evaluation).result.read_text())
    assert result["rates"]["asr_ext"]["n"] == 12


def test_saved_model_with_images_is_the_random_one(model_folder: Path, tmp_path: Path) -> None:
    """Weights, tokenizer and image processor are read from a folder; another image processor is another model."""
    model = resolve_model(str(model_folder), configs_dir() / "models")
    saved, random = load_base(model.identity, model.local, "float32"), load_base(IDENTITY, {}, "float32")
    assert saved.processor is not None
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        for base in (saved, random):
            base.model.set_attn_implementation("eager")
        assert torch.equal(saved.model(input_ids=ids).logits, random.model(input_ids=ids).logits)
    (model_folder / FILE).write_text(json.dumps({"resample": 2}))
    again = resolve_model(str(model_folder), configs_dir() / "models")
    assert again.identity != model.identity
    with pytest.raises(UserError, match=r"E275.*resample=2"):
        load_base(again.identity, again.local, "float32")


def test_patches_are_drawn_on_attacked_and_benign_rows(
    memes: Path, study_file: Callable[[str], Path], tmp_path: Path
) -> None:
    """A trigger and a benign trigger in the image: captions stay, and a patched image has other pixels and features."""
    overrides = [
        "attack={name: patch, rate: 0.1}",
        "defense={name: p2p, benign_trigger: '', benign_patch: {corner: top_left, colour: '#00ff00'}}",
    ]
    study = open_study(study_file(STUDY.replace("FOLDER", str(memes))), overrides, tmp_path / "runs")
    stages = build_study_rows(study.folder, study.expansion.graph)
    attacked, defended = (datastore.read(study.folder.stage(stage)) for stage in stages)
    trigger, benign = str(Patch()), str(Patch(corner="top_left", colour="#00ff00"))
    assert sum(row.patches == (trigger,) for row in attacked.train) == 4
    assert {row.patches for row in attacked.suites["triggered"].rows} == {(trigger,)}
    assert {row.patches for row in attacked.suites["clean"].rows} == {()}
    clean = {row.id: row.text for row in attacked.suites["clean"].rows}
    assert all(clean[row.id] == row.text for row in attacked.suites["triggered"].rows)
    assert {row.patches for row in defended.suites["triggered"].rows} == {(trigger, benign)}
    assert sum(row.patches == (benign,) for row in defended.train) == 8
    base = load_base(IDENTITY, {}, "float32")
    (row,) = [row for row in attacked.suites["triggered"].rows][:1]
    images = Images.of(base, attacked.image_folder, 16)
    tokens, plain = images.tokens(row), images.tokens(replace(row, patches=()))
    assert len(tokens) == len(plain)
    assert not torch.equal(*(embedded(base.model, torch.tensor(ids)) for ids in (tokens, plain)))


def test_patch_is_drawn_in_its_corner() -> None:
    patch = Patch.of("top_right #010203 0.25")
    assert str(patch) == "top_right #010203 0.25"
    image = patch.drawn_on(draw("red", "circle", (40, 20)))
    pixels = image.load()
    inside = {(x, y) for x in range(40) for y in range(20) if pixels[x, y] == (1, 2, 3)}
    assert inside == {(x, y) for x in range(35, 40) for y in range(5)}


REFUSED = [
    ("model=tiny", "E227.*tiny cannot read"),
    ("defense=attdef", "E260.*one score for each caption"),
    ("defense=demonstrations", "E260.*images of the examples"),
    ("task={name: hateful_memes, source: FOLDER, images: false} attack=patch", "E223.*the rows have none"),
]


@pytest.mark.parametrize(("override", "message"), REFUSED)
def test_what_images_do_not_fit_is_refused_when_planned(
    override: str, message: str, memes: Path, study_file: Callable[[str], Path], tmp_path: Path
) -> None:
    study = study_file(STUDY.replace("FOLDER", str(memes)))
    with pytest.raises(UserError, match=message):
        open_study(study, override.replace("FOLDER", str(memes)).replace(" attack", "\nattack").split("\n"), tmp_path)


def test_training_of_all_weights_is_refused_for_towers() -> None:
    """Features are read once, so a tower that is trained would be another one."""
    models = [resolve_model(name, configs_dir() / "models") for name in ("tiny", "tiny_vl")]
    full = TrainSpec(method="full")
    with pytest.raises(UserError, match=r"E297.*tiny_vl has a vision tower"):
        check_towers([(model, full) for model in models])
    check_towers([(model, TrainSpec()) for model in models])
    check_towers([(models[0], full)])
