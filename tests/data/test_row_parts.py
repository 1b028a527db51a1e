"""Parts of the test rows (`rows.split`) and rows that change with the seed (`rows.seed`)."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from pydantic import ValidationError

from p2p_dist.config.study import RowsSpec
from p2p_dist.data.attacks.badnets import BadNets
from p2p_dist.data.attacks.none import NoAttack
from p2p_dist.data.build import build_attacked, build_edited
from p2p_dist.data.built import HELD_OUT
from p2p_dist.data.defenses.onion import Onion
from p2p_dist.data.example import RawRow, text_key
from p2p_dist.data.task import Split
from p2p_dist.data.tasks.sst2 import Sst2
from p2p_dist.errors import UserError
from p2p_dist.scheduling.study import open_study

RAW = {split: [RawRow(f"{split} film number {n}", n % 2) for n in range(200)] for split in ("train", "test")}
ALL = {"train": [*RAW["train"], *RAW["test"]]}
"""A source without a test split."""


def texts(split: Split, part: str = "test") -> set[str]:
    return {example.text for example in getattr(split, part)}


def split(raw: Mapping[str, Sequence[RawRow]] = RAW, seed: int | None = None, **rows: object) -> Split:
    return Sst2().split(raw, RowsSpec.model_validate({"train": 100, "test": 40, **rows}), seed)


def drawn(seed: int, part: str) -> Split:
    """Rows of a seed where rows change with it."""
    rows = RowsSpec.model_validate({"train": 100, "test": 40, "split": part, "tune": 40, "seed": "study"})
    return Sst2().split(RAW, rows, seed)


@pytest.mark.parametrize("raw", [RAW, ALL], ids=["test split", "by content"])
def test_parts_share_no_row_and_training_rows_are_the_same(raw: Mapping[str, Sequence[RawRow]]) -> None:
    tune, judge = (split(raw, split=part, tune=40) for part in ("tune", "judge"))
    assert len(texts(tune)) == len(texts(judge)) == 40
    assert not texts(tune) & texts(judge)
    assert not texts(judge, "train") & (texts(tune) | texts(judge)), "no part is trained on by the other"
    assert sum(example.label for example in judge.test) == 20


def test_part_tune_has_the_rows_that_settings_were_chosen_on() -> None:
    """Those of a study with as many test rows and no split."""
    assert texts(split(split="tune", tune=40)) == texts(split())


def test_part_judge_has_all_other_rows() -> None:
    assert len(split(split="judge", tune=40, test=None).test) == 160
    assert len(split(split="tune", tune=40, test=None).test) == 40


def test_rows_change_with_the_seed_and_parts_do_not() -> None:
    """A row of one seed's judging rows is no tuning row of another."""
    zero, one = (drawn(seed, "judge") for seed in (0, 1))
    tune = drawn(1, "tune")
    for part in ("test", "train"):
        assert texts(zero, part) != texts(one, part)
    assert not texts(tune) & (texts(zero) | texts(one))
    assert texts(split(seed=1)) == texts(split(seed=2)), "by default no row depends on the seed"


def test_held_out_rows_are_a_suite_that_is_trained_on_by_none() -> None:
    """The part `tune` of a study that judges: for thresholds, with labels, without triggers."""
    rows = RowsSpec.model_validate({"train": 100, "test": 40, "split": "judge", "tune": 40})
    built = build_attacked(Sst2(), RAW, rows, BadNets(rate=0.1), 0)
    held_out = {row.text for row in built.suites[HELD_OUT].rows}
    assert held_out == texts(split(split="tune", tune=40))
    assert not held_out & {row.text for row in [*built.suites["clean"].rows, *built.train]}
    assert not any("mn" in text.split() for text in held_out)
    clean = build_attacked(Sst2(), RAW, rows, NoAttack(), None)
    assert {row.text for row in clean.suites[HELD_OUT].rows} == held_out
    assert HELD_OUT not in build_attacked(Sst2(), RAW, RowsSpec(test=40), BadNets(rate=0.1), 0).suites


def test_bar_of_onion_is_tried_on_held_out_rows() -> None:
    rows = RowsSpec.model_validate({"train": 100, "test": 40, "split": "judge", "tune": 40, "reserve": 20})
    built = build_attacked(Sst2(), RAW, rows, BadNets(rate=0.1), 0)
    words: dict[str, dict[str, object]] = {"texts": {}}
    known = built.suites[HELD_OUT].rows
    for row in [*known, *built.reserve]:
        words["texts"][text_key(row.text)] = {"whole": 0.0, "without": [0.0] * len(row.text.split(" "))}
    trial = build_edited(built, Onion(), {"words": words}, "trial")
    assert {len(suite.rows) for suite in trial.suites.values()} == {40}
    assert {row.text for row in trial.suites["none"].rows} == {row.text for row in known}
    chosen = {"trial": {name: {"a": {"scores": [0.0, -1.0], "label": 0}} for name in trial.suites}, "words": words}
    for suite in built.suites.values():
        for row in suite.rows:
            words["texts"].setdefault(text_key(row.text), {"whole": 0.0, "without": [0.0] * len(row.text.split(" "))})
    edited = build_edited(built, Onion(), chosen)
    assert edited.suites.keys() == {"clean", "triggered"}, "held-out rows are not judged"
    assert Onion().incompatibility(Sst2(), BadNets(), rows.model_copy(update={"reserve": 0})) is None


def test_part_that_is_too_large_names_its_key() -> None:
    with pytest.raises(UserError, match=r"rows\.tune"):
        split(split="judge", tune=300)
    with pytest.raises(UserError, match=r"rows\.test"):
        split(split="tune", tune=40, test=60)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({"order": "file", "split": "judge"}, "rows.order: file takes all rows"),
        ({"order": "file", "seed": "study"}, "rows.order: file takes all rows"),
        ({"tune": 200}, "rows.tune is for rows.split"),
    ],
)
def test_options_that_cannot_be_are_refused(rows: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        RowsSpec.model_validate(rows)


def test_options_at_their_defaults_are_no_identity() -> None:
    assert RowsSpec().model_dump().keys() == {"train", "test", "reserve", "balanced", "order"}
    assert RowsSpec(split="judge").model_dump()["split"] == "judge"
    assert RowsSpec(seed="study").model_dump()["seed"] == "study"


@pytest.mark.usefixtures("with_data")
def test_rows_of_the_seed_are_stages_of_the_seed(study_file: Callable[[], Path], tmp_path: Path) -> None:
    """The clean model of every seed has rows of its own where rows change with the seed."""
    changes = ["attack=none", "defense=none", "exclude=[]", "seed=[0, 1]"]
    shared = open_study(study_file(), changes, tmp_path).expansion.graph.stages.values()
    by_seed = open_study(study_file(), [*changes, "rows.seed=study"], tmp_path).expansion.graph.stages.values()
    assert [sum(stage.kind == "data" for stage in stages) for stages in (shared, by_seed)] == [1, 2]
