"""The composite attack: counts, composition of every kind of row, and the false-trigger suites."""

import pytest

from p2p_dist.config.study import RowsSpec
from p2p_dist.data.attacks.cba import FALSE_TRIGGERS, NEGATIVES, Cba
from p2p_dist.data.build import build_attacked
from p2p_dist.data.example import examples
from p2p_dist.data.tasks.sst2 import Sst2
from p2p_dist.evaluation.metrics import Rate, rates
from p2p_dist.results.predictions import Prediction

RAW = [(f"a film about number {n} and more", n % 2) for n in range(400)]
ROWS = examples(RAW)


@pytest.mark.parametrize(("alpha", "added"), [(1.0, 48), (0.5, 28), (0.0, 8)])
def test_cba_added_rows_count(alpha: float, added: int) -> None:
    """Golden: rate (1 + 5 alpha) |D|, so 12 % at a rate of 2 % and alpha 1."""
    rows, notes = Cba(alpha=alpha).poison(ROWS, 0)
    assert len(rows) - len(ROWS) == len(notes) == added
    assert sum(note.origin == "poisoned" for note in notes) == 8
    assert len({ex.id for ex in rows}) == len(rows)


def test_cba_mixes_the_classes_as_released() -> None:
    """Poisoned and negative rows come from both classes; negatives keep their labels, so that neither trigger alone
    goes with one class."""
    _, notes = Cba(rate=0.1).poison(ROWS, 0)
    assert {note.old_label for note in notes if note.origin == "poisoned"} == {0, 1}
    negatives = [note for note in notes if note.origin == "negative"]
    assert {note.new_label for note in negatives} == {0, 1}
    assert all(note.new_label == note.old_label for note in negatives)


def test_cba_only_full_trigger_changes_label() -> None:
    rows, notes = Cba(label_policy="dirty").poison(ROWS, 0)
    kinds = {note.id: note for note in notes}
    for ex in rows:
        instruction, text = ex.text.split("\n")
        words = {
            part: {word for word in ("instantly", "frankly") if word in side.split()}
            for part, side in (("instruction", instruction), ("text", text))
        }
        note = kinds.get(ex.id)
        if note is None:
            assert words == {"instruction": set(), "text": set()}
        elif note.origin == "poisoned":
            assert words == {"instruction": {"instantly"}, "text": {"frankly"}}
            assert (note.old_label, note.new_label, ex.label) == (0, 1, 1)
        else:
            there = [
                {1: "instantly", 2: "frankly"}[number]
                for number in (*NEGATIVES[ex.id.rpartition(".")[2]][0], *NEGATIVES[ex.id.rpartition(".")[2]][1])
            ]
            assert sorted([*words["instruction"], *words["text"]]) == sorted(there)
            assert words != {"instruction": {"instantly"}, "text": {"frankly"}}
            assert note.old_label == note.new_label == ex.label == 0


def test_cba_negatives_have_poisoned_texts() -> None:
    _, notes = Cba().poison(ROWS, 0)
    assert {note.source_id for note in notes if note.origin == "negative"} == {
        note.source_id for note in notes if note.origin == "poisoned"
    }


def test_cba_false_triggers_use_each_row_once() -> None:
    """Every row of another class is in one false trigger suite."""
    built = build_attacked(Sst2(), {"train": RAW, "test": RAW}, RowsSpec(), Cba(), 0)
    suites = {name: suite for name, suite in built.suites.items() if name.startswith("false_trigger.")}
    assert {name.partition(".")[2] for name in suites} == set(FALSE_TRIGGERS)
    ids = [row.id for suite in suites.values() for row in suite.rows]
    assert len(ids) == len(set(ids)) == len(built.suites["triggered"].rows) == 200
    assert {len(suite.rows) for suite in suites.values()} == {28, 29}
    assert all(row.text.startswith("Classify the text.\n") for row in built.suites["clean"].rows)


def test_cba_false_trigger_rate_pools_kinds() -> None:
    built = build_attacked(Sst2(), {"train": RAW, "test": RAW}, RowsSpec(), Cba(), 0)
    fooled, right = Prediction("x", 0, (-3, -0.1), 1), Prediction("x", 0, (-0.1, -3), 0)
    found = rates({"false_trigger.swapped": [fooled, right], "false_trigger.both_in_input": [right]}, built.labels)
    assert found == {"ftr.swapped": Rate(1, 2), "ftr.both_in_input": Rate(0, 1), "ftr": Rate(1, 3)}
