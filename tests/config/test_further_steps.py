"""Persistence: further clean training stands behind the defense, shares its stages, and leaves the baseline alone."""

from collections.abc import Callable
from pathlib import Path

import pytest

from p2p_dist.errors import UserError
from p2p_dist.scheduling.study import open_study

STUDY = """
name: one
task: sst2
model: tiny
attack: [none, {name: badnets, rate: 0.1}]
defense: [none, fine_pruning, {name: fine_pruning, further_steps: 3}]
rows: {train: 48, test: 12, reserve: 12}
train: {warmup_steps: 2, num_train_epochs: 1, global_batch: 16, lora: {r: 2}}
"""


@pytest.mark.usefixtures("with_data")
def test_further_steps_train_on_from_the_defended_adapter(study_file: Callable[[str], Path], tmp_path: Path) -> None:
    expansion = open_study(study_file(STUDY), [], tmp_path).expansion
    stages = expansion.graph.stages
    runs = {(run.cell["attack"], run.cell["defense"]): run for run in expansion.runs}
    plain, further = runs["badnets", "fine_pruning"], runs["badnets", "fine_pruning(further_steps=3)"]
    before, after = stages[plain.train], stages[further.train]
    assert after.reads["start"] == before.id, "every other stage is shared with the defense without it"
    assert after.reads["merged"] == before.reads["merged"]
    assert after.spec["prune"] == before.spec["prune"], "on the same base"
    rows = stages[after.reads["rows"]]
    assert (rows.spec["attack"]["name"], rows.spec["train_rows"]) == ("badnets", "clean")
    assert after.spec["stop_after_steps"] == 3
    assert after.spec["train"]["num_train_epochs"] == 3, "enough, however few rows there are"
    assert (after.spec["train"]["lr_scheduler_type"], after.spec["train"]["warmup_steps"]) == ("constant", 0)
    assert plain.floor == further.floor, "the clean model is not trained further"
    clean = stages[runs["none", "fine_pruning(further_steps=3)"].train]
    assert "train_rows" not in {key: value for key, value in stages[clean.reads["rows"]].spec.items() if value}


@pytest.mark.usefixtures("with_data")
def test_further_steps_train_plainly_behind_every_defense(study_file: Callable[[str], Path], tmp_path: Path) -> None:
    """A defense's loss, aligned gradients and sum of adapters end with it; its base stays, pruned by the same rows."""
    names = [
        "abl",
        "crow",
        "w2sdefense",
        "lethe",
        "musclelora",
        "disec",
        "obliviate",
        "btu",
        "demonstrations",
        "moddef",
    ]
    plain = [f"{{name: {name}{', clean_rows: 8' * (name == 'musclelora')}}}" for name in [*names, "pruning"]]
    further = [text.replace("}", ", further_steps: 3}") for text in plain]
    overrides = [
        f"defense=[none, {', '.join([*plain, *further])}]",
        "attack={name: badnets, rate: 0.1}",
        "model=tiny_deep",
    ]
    expansion = open_study(study_file(STUDY), overrides, tmp_path).expansion
    stages = expansion.graph.stages
    without_further = {
        run.cell["defense"].split("(")[0]: run for run in expansion.runs if "further" not in run.cell["defense"]
    }
    trained_on = [run for run in expansion.runs if "further" in run.cell["defense"]]
    assert len(trained_on) == len(plain)
    for run in trained_on:
        before, after = stages[without_further[run.cell["defense"].split("(")[0]].train], stages[run.train]
        assert after.reads["start"] == before.id
        for key in ("objective", "reparametrized", "weighted", "align"):
            assert after.spec.get(key) is None
        assert after.spec["train"]["lora"] == before.spec["train"]["lora"]
        assert after.reads.get("merged") == before.reads.get("merged")
        if before.spec["prune"]:
            assert after.reads["calibration"] == before.reads["rows"] != after.reads["rows"]


@pytest.mark.usefixtures("with_data")
def test_further_steps_take_rows_of_the_runs_own_draw(study_file: Callable[[str], Path], tmp_path: Path) -> None:
    """Rows drawn anew for every seed: a further training on another draw would meet test rows of this one."""
    overrides = ["rows.seed=study", "seed=3"]
    expansion = open_study(study_file(STUDY), overrides, tmp_path).expansion
    stages = expansion.graph.stages
    trainings = [stages[run.train] for run in expansion.runs if "further_steps" in run.cell["defense"]]
    assert [stages[training.reads["rows"]].spec["seed"] for training in trainings] == [3, 3]


@pytest.mark.usefixtures("with_data")
def test_further_steps_inside_another_defense_refused(study_file: Callable[[str], Path], tmp_path: Path) -> None:
    inner = "defense={name: p2p_in_weights, p2p: {benign_source: clean_reserved, further_steps: 3}}"
    with pytest.raises(UserError, match=r"E107.*outer defense"):
        open_study(study_file(STUDY), [inner], tmp_path)
