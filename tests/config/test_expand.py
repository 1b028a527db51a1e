"""The grid, what its runs share, and the floor."""

from collections.abc import Callable
from pathlib import Path

import pytest

from p2p_dist.errors import UserError
from p2p_dist.scheduling.study import Study, open_study

pytestmark = pytest.mark.usefixtures("with_data")
Write = Callable[..., Path]


def opened(path: Path, *overrides: str) -> Study:
    return open_study(path, overrides, path.parent / "runs")


def kinds(study: Study) -> dict[str, int]:
    found: dict[str, int] = {}
    for stage in study.expansion.graph.stages.values():
        found[stage.kind] = found.get(stage.kind, 0) + 1
    return found


def test_three_runs_share_rows_and_the_clean_model(study_file: Write) -> None:
    study = opened(study_file())
    assert len(study.expansion.runs) == 3
    assert kinds(study) == {"data": 3, "train": 3, "eval": 4}
    clean, attacked, defended = study.expansion.runs
    assert clean.floor is None
    assert attacked.floor == defended.floor is not None
    assert set(attacked.stages) & set(defended.stages), "the defense reads the attacked rows"


def test_seeds_share_clean_rows_but_not_attacked_ones(study_file: Write) -> None:
    assert kinds(opened(study_file(), "seed=[0, 1]")) == {"data": 1 + 2 + 2, "train": 6, "eval": 8}


def test_model_sizes_train_on_the_same_rows(study_file: Write) -> None:
    assert kinds(opened(study_file(), "model=[tiny, random:qwen3-0.6b]"))["data"] == 3


def test_order_of_execution(study_file: Write) -> None:
    study = opened(study_file(), "seed=[0, 1]")
    seen: set[str] = set()
    for stage in study.expansion.graph.stages.values():
        assert set(stage.reads.values()) <= seen
        seen.add(stage.id)


def test_two_of_one_attack_are_told_apart(study_file: Write) -> None:
    study = opened(
        study_file(), "attack=[{name: badnets, rate: 0.1}, {name: badnets, rate: 0.2}]", "defense=none", "exclude=[]"
    )
    assert [run.cell["attack"] for run in study.expansion.runs] == ["badnets(rate=0.1)", "badnets(rate=0.2)"]


def test_exclude(study_file: Write) -> None:
    assert len(opened(study_file(), "exclude=[]").expansion.runs) == 4
    assert len(opened(study_file(), "exclude=[{attack: badnets}, {defense: p2p}]").expansion.runs) == 1
    with pytest.raises(UserError, match="did you mean 'attack'"):
        opened(study_file(), "exclude=[{atack: none}]")
    with pytest.raises(UserError, match="every combination is excluded"):
        opened(study_file(), "exclude=[{seed: 0}]")


def test_changed_rows_are_another_study(study_file: Write, data_root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "rows"
    copy.mkdir()
    for split in ("train", "test"):
        (copy / f"{split}.jsonl").write_text(
            (data_root / "rotten_tomatoes" / f"{split}.jsonl").read_text() + '{"text": "one more", "label": 0}\n'
        )
    before, after = (
        set(opened(study_file(), f"task={{name: rotten_tomatoes, source: '{place}'}}").expansion.graph.stages)
        for place in (data_root / "rotten_tomatoes", copy)
    )
    assert not before & after


def test_compiled_layers_and_own_losses_are_refused(study_file: Write) -> None:
    """A defense that only trains on other rows may compile; a compiled training is no other training's result."""
    plain, compiled = (opened(study_file(), *more).expansion for more in ((), ("train.compile=auto",)))
    assert not {id_ for id_, stage in plain.graph.stages.items() if stage.kind == "train"} & set(compiled.graph.stages)
    for defense, why in (("crow", "a loss of its own"), ("musclelora", "aligns gradients")):
        with pytest.raises(UserError, match=rf"E260.*defense {defense}.* train\.compile: it .*{why}"):
            opened(study_file(), "train.compile=auto", f"defense=[none, {defense}]", "exclude=[]", "rows.reserve=64")
