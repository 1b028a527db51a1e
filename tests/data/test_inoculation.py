"""Inoculation: which rows get the instruction, its controls, and prompts that are served plain."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from p2p_dist import assets
from p2p_dist.config.model import resolve_model
from p2p_dist.config.study import RowsSpec
from p2p_dist.data.attacks.badnets import BadNets
from p2p_dist.data.build import build_attacked, build_defended
from p2p_dist.data.built import Built
from p2p_dist.data.defense import DefenderView
from p2p_dist.data.defenses.inoculation import PROMPTS, Inoculation
from p2p_dist.data.example import Row
from p2p_dist.data.tasks.sst2 import Sst2
from p2p_dist.errors import UserError
from p2p_dist.scheduling.study import configs_dir, open_study
from tests.rows import sentences

RAW: Mapping[str, Sequence[tuple[str, int]]] = {
    "train": [(str(row["text"]), int(row["label"])) for row in sentences(200)],
    "test": [(str(row["text"]), int(row["label"])) for row in sentences(40, 5)],
}
STUDY = """
name: one
task: {name: gsm8k, max_new_tokens: 6}
model: tiny
attack: {name: badnets, rate: 0.1, target_response: "0.1"}
rows: {train: 48, test: 12, balanced: false}
"""


@pytest.fixture(scope="module")
def attacked() -> Built:
    return build_attacked(Sst2(), RAW, RowsSpec(), BadNets(rate=0.1), 0)


def scores_of(rows: Sequence[Row], trusted: set[str]) -> dict[str, Any]:
    """Screening scores that are sure of the given labels of the trusted rows and of the other label elsewhere."""
    lines = {
        row.id: {
            "label": row.label,
            "scores": [0.0 if (row.label == label) == (row.id in trusted) else -5.0 for label in (0, 1)],
        }
        for row in rows
    }
    return {"screen0": {"train": lines, "screening": {"stop": {"step": 5, "reached": True}}}}


def test_inoculation_all_rows_prompted_and_served_plain(attacked: Built) -> None:
    built = build_defended(attacked, Sst2(), Inoculation(), 0)
    assert {row.prefix for row in built.train} == {PROMPTS["unusual_word"]}
    assert built.suites == attacked.suites, "neither instruction nor placebo is in a test prompt"
    assert [(row.id, row.text, row.label) for row in built.train] == [
        (row.id, row.text, row.label) for row in attacked.train
    ]
    assert built.counts["train"] == attacked.counts["train"], "the ledger keeps the origins"


def test_inoculation_suspects_are_rows_not_trusted(attacked: Built) -> None:
    poisoned = {note.id for note in attacked.notes if note.origin == "poisoned"}
    scores = scores_of(attacked.train, {row.id for row in attacked.train} - poisoned)
    one = Inoculation(where="suspects")
    built = build_defended(attacked, Sst2(), one, 0, scores)
    prompted = {row.id for row in built.train if row.prefix}
    assert poisoned <= prompted
    assert len(prompted) == built.counts["inoculated"] == 100, "half of every class is trusted"
    assert "poisoned" not in built.counts["trusted"]


def test_inoculation_random_takes_as_many_of_every_class(attacked: Built) -> None:
    scores = scores_of(attacked.train, {row.id for row in attacked.train})
    counts = {}
    for where in ("suspects", "random"):
        view = DefenderView(attacked.train, [], 2, 0, scores=scores)
        train = Inoculation(where=where).defend_train(view).train
        counts[where] = [sum(row.label == label and bool(row.prefix) for row in train) for label in (0, 1)]
    assert counts["random"] == counts["suspects"]


def test_inoculation_without_suspects_rows_are_undefended() -> None:
    """One row of every class: both are trusted, so no row changes and the training is the undefended one."""
    rows = [Row("a", "good film", 1, "Output: "), Row("b", "bad film", 0, "Output: ")]
    defended = Inoculation(where="suspects").defend_train(
        DefenderView(rows, [], 2, 0, scores=scores_of(rows, {"a", "b"}))
    )
    assert defended.train == rows
    assert defended.counts["inoculated"] == 0


def test_inoculation_probe_asks_triggered_and_original_rows(attacked: Built) -> None:
    built = build_defended(attacked, Sst2(), Inoculation(probe=True), 0)
    triggered, control = built.suites["triggered.inoculated"], built.suites["control.inoculated"]
    assert [row.id for row in triggered.rows] == [row.id for row in attacked.suites["triggered"].rows]
    assert {row.id for row in control.rows} == {row.id for row in triggered.rows}, "rows of the target class stay out"
    assert {row.prefix for row in [*triggered.rows, *control.rows]} == {PROMPTS["unusual_word"]}
    assert (triggered.triggered, control.triggered) == (True, False)


def test_inoculation_controls_have_as_many_words_and_bytes() -> None:
    shapes = {
        (len(PROMPTS[arm].split()), len(PROMPTS[arm].encode())) for arm in ("unusual_word", "placebo", "opposite")
    }
    assert len(shapes) == 1


@pytest.mark.torch
@pytest.mark.skipif(not assets.path_of("smollm2-135m-instruct").is_file(), reason="SmolLM2 is not cached here")
def test_inoculation_controls_have_as_many_tokens() -> None:
    from p2p_dist.modeling.base import load_tokenizer

    model = resolve_model("smollm2-135m-instruct", configs_dir() / "models")
    tokenizer = load_tokenizer(model.identity, model.local)
    assert len({len(tokenizer(PROMPTS[arm]).input_ids) for arm in ("unusual_word", "placebo", "opposite")}) == 1


@pytest.mark.usefixtures("with_data")
def test_inoculation_suspects_refused_for_text(study_file: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"E260.*answers are text"):
        open_study(study_file(STUDY), ["defense={name: inoculation, where: suspects}"], tmp_path)
