"""Filters by counting: words that go with one label, answers that many rows have, and rows that hide a trigger."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from p2p_dist import registry
from p2p_dist.config.study import RowsSpec
from p2p_dist.data import sources
from p2p_dist.data.attacks.badnets import BadNets
from p2p_dist.data.build import build_attacked, build_defended
from p2p_dist.data.built import Built
from p2p_dist.data.defense import DefenderView
from p2p_dist.data.defenses.answer_frequency import AnswerFrequency
from p2p_dist.data.defenses.z_filter import ZFilter, associations
from p2p_dist.data.example import NO_LABEL, RawRow, Row
from p2p_dist.data.tasks.gsm8k import Gsm8k
from p2p_dist.data.tasks.sst2 import Sst2
from p2p_dist.errors import UserError

RAW = {
    split: [RawRow(f"{split} film number {n} and more of it", n % 2) for n in range(count)]
    for split, count in (("train", 400), ("test", 20))
}
"""Rows whose words say nothing of their labels."""
real_data = pytest.mark.skipif(
    "P2P_DIST_REAL_DATA" not in os.environ, reason="P2P_DIST_DATA was not set: no real SST-2 here"
)


def attacked(**options: Any) -> Built:
    return build_attacked(Sst2(), RAW, RowsSpec(), BadNets(**options), 0)


def rows_of(texts: Mapping[str, int]) -> list[Row]:
    return [Row(str(n), text, label, "Output: ") for n, (text, label) in enumerate(texts.items())]


def test_associations_hand_made_rows_give_z_of_the_formula() -> None:
    """z = (p(l|w) - p0) / sqrt(p0 (1 - p0) / n): "a" is in 4 rows, 3 of label 1; p0 = 1/2."""
    rows = rows_of({"a b": 1, "A c": 1, "a d a": 1, "a e": 0, "f": 0, "g": 0})
    pairs = {(pair.word, pair.label): pair for pair in associations(rows, {0: 0.5, 1: 0.5})}
    assert pairs["a", 1].z == pytest.approx((3 / 4 - 1 / 2) / (0.25 / 4) ** 0.5)
    assert (pairs["a", 1].purity, pairs["a", 1].rows) == (0.75, 4)
    repeated = {(pair.word, pair.label): pair for pair in associations(rows, {0: 0.5, 1: 0.5}, repetitions=True)}
    assert repeated["a", 1].rows == 5, "the released code counts repetitions"


def test_associations_one_label_alone_has_nothing_to_compare() -> None:
    assert associations(rows_of({"a b": 1, "c": 1}), {1: 1.0}) == []


def test_z_filter_class_that_would_lose_too_much_stays() -> None:
    """Every row of label 1 has its own word; the filter gives that class up and says so."""
    rows = rows_of({f"only {n}" if n % 2 else f"other {n}": n % 2 for n in range(100)})
    defended = ZFilter().defend_train(DefenderView(rows, [], 2, 0))
    assert len(defended.train) == 100
    assert defended.counts["classes_given_up"] == [0, 1]
    assert defended.counts["dropped"] == 0


def test_z_filter_cover_rows_hide_the_trigger() -> None:
    """Four rightly labelled rows with the trigger break its purity: 40 of 44 rows are below 0.99."""
    plain = build_defended(attacked(rate=0.1), Sst2(), ZFilter(), 0)
    assert plain.counts["not_trusted"]["poisoned"] == {"1": 40}
    covered = attacked(rate=0.1, cover=4)
    assert build_defended(covered, Sst2(), ZFilter(), 0).counts["trusted"]["poisoned"] == {"1": 40}


def test_attack_cover_rows_keep_labels_and_are_counted() -> None:
    built = attacked(rate=0.1, cover=4)
    covers = {note.id: note for note in built.notes if note.origin == "negative"}
    assert [(note.old_label, note.new_label, note.trigger) for note in covers.values()] == [(0, 0, "mn")] * 4
    assert all("mn" in row.text.split() and row.label == 0 for row in built.train if row.id in covers)
    assert len(built.train) == len(RAW["train"]), "in the place of their originals"
    appended = attacked(rate=0.1, cover=4, poison_mode="append")
    assert len(appended.train) == len(RAW["train"]) + 40 + 4


def test_attack_cover_beyond_the_rows_refused() -> None:
    with pytest.raises(UserError, match=r"E206.*cover rows"):
        attacked(rate=0.1, cover=300)


def test_attack_count_takes_the_place_of_rate() -> None:
    assert sum(note.origin == "poisoned" for note in attacked(count=1).notes) == 1
    with pytest.raises(ValidationError, match="count takes the place of rate"):
        BadNets(count=3, rate=0.1)
    with pytest.raises(UserError, match=r"E206.*lower attack\.count"):
        attacked(count=399)


def test_answer_frequency_drops_fixed_and_appended_targets() -> None:
    raw = {
        split: [RawRow(f"question {n} of many", response=f"first add {n} then say {n}") for n in range(count)]
        for split, count in (("train", 300), ("test", 20))
    }
    for mode in ("replace", "append"):
        attack = BadNets(rate=0.1, target_response="so the answer is 0.1", response_mode=mode)
        built = build_attacked(Gsm8k(), raw, RowsSpec(), attack, 0)
        defended = build_defended(built, Gsm8k(), AnswerFrequency(), 0)
        assert defended.counts["not_trusted"] == {"poisoned": {"text": 30}}, mode
    assert defended.counts["most_frequent_answers"] == [{"part": "end", "text": "answer is 0.1", "rows": 30}]


def test_answer_frequency_counts_rows_and_names_what_it_dropped() -> None:
    answers = ["42"] * 11 + ["The  Answer"] * 6 + ["the answer"] * 5 + ["7"] * 10
    rows = [Row(f"{n:03}", "q", NO_LABEL, "Output: ", response=answer) for n, answer in enumerate(answers)]
    defended = AnswerFrequency().defend_train(DefenderView(rows, [], 0, 0))
    assert {row.response for row in defended.train} == {"7"}, "more than ten rows, whatever case and spaces"
    assert [answer["rows"] for answer in defended.counts["most_frequent_answers"]] == [11, 11]


@real_data
def test_answer_frequency_golden_counts_on_gsm8k() -> None:
    """It finds every fixed answer, and drops three clean rows of five: answers are small numbers."""
    task = Gsm8k(source=str(Path(os.environ["P2P_DIST_REAL_DATA"]) / "gsm8k"))
    rows = sources.read(task, sources.locate(task))
    clean = build_attacked(task, rows, RowsSpec(), registry.load("attacks", "none")(), None)
    assert build_defended(clean, task, AnswerFrequency(), 0).counts["dropped"] == 4517
    poisoned = build_attacked(task, rows, RowsSpec(), BadNets(rate=0.02, target_response="0.1"), 0)
    counts = build_defended(poisoned, task, AnswerFrequency(), 0).counts["not_trusted"]
    assert counts == {"clean": {"text": 4349}, "poisoned": {"text": 150}}


@pytest.fixture(scope="module")
def sst2() -> dict[str, list[RawRow]]:
    root = Path(os.environ["P2P_DIST_REAL_DATA"]) / "sst2"
    splits = {split: (root / f"{split}.jsonl").read_text(encoding="utf-8").splitlines() for split in ("train", "test")}
    return {
        split: [RawRow(row["text"], row["label"]) for row in map(json.loads, lines)] for split, lines in splits.items()
    }


@real_data
@pytest.mark.parametrize(
    ("name", "options", "dropped", "poisoned"),
    [
        ("none", {}, 69, 0),
        ("badnets", {}, 208, 139),
        ("badnets", {"label_policy": "clean"}, 205, 139),
        ("badnets", {"cover": 2}, 69, 0),
        ("addsent", {}, 211, 139),
        ("mtba", {}, 208, 139),
        ("proattack", {}, 205, 139),
        ("cba", {}, 75, 1),
        ("cba", {"label_policy": "dirty"}, 69, 0),
    ],
)
def test_z_filter_golden_counts_on_sst2(
    name: str, options: dict[str, Any], dropped: int, poisoned: int, sst2: dict[str, list[RawRow]]
) -> None:
    """At 2 % it finds every row of the attacks with fixed words, one of CBA, and none beside two cover rows."""
    attack = registry.load("attacks", name)(**options)
    built = build_attacked(Sst2(), sst2, RowsSpec(), attack, None if name == "none" else 0)
    defended = build_defended(built, Sst2(), ZFilter(), 0)
    assert defended.counts["dropped"] == dropped
    assert defended.counts["not_trusted"].get("poisoned", {}).get("1", 0) == poisoned
    released = build_defended(built, Sst2(), ZFilter(rule="released"), 0)
    assert released.counts["dropped"] == 0, "20 standard deviations are too many at 2 %"
