"""Whom to trust, from scores: by class, by rank, by content, and never by origin."""

import math
import re
from random import Random

import pytest

from p2p_dist.data.defense import DefenderView
from p2p_dist.data.example import Row
from p2p_dist.data.screening import (
    Screening,
    answered_alike,
    draw_balanced,
    fold_of,
    most_trusted,
    vouched_for,
)
from p2p_dist.data.screening_stops import failure
from p2p_dist.errors import UserError

ROWS = [Row(f"{at:03d}", f"text {at}", at % 2, "Output: ") for at in range(100)]


def scores(trust: dict[str, float]) -> dict[str, dict[str, dict[str, object]]]:
    """Scores at which the given label has this probability."""
    line = {
        row.id: [math.log(p if row.label == label else 1 - p) for label in (0, 1)]
        for row in ROWS
        for p in [trust.get(row.id, 0.5)]
    }
    return {"train": {row.id: {"label": row.label, "scores": line[row.id]} for row in ROWS}}


def test_most_trusted_ranks_within_class() -> None:
    low = {row.id: 0.9 - 0.008 * at if row.label else 0.2 - 0.001 * at for at, row in enumerate(ROWS)}
    zero, one = most_trusted(ROWS, [scores(low)], 2, 0.3, 5)
    assert zero == {row.id for row in ROWS[:30] if row.label == 0}, (
        "a class that the model does not believe in is ranked by itself"
    )
    assert one == {row.id for row in ROWS[:30] if row.label == 1}


def test_most_trusted_at_least_count() -> None:
    assert [len(ids) for ids in most_trusted(ROWS, [scores({})], 2, 0.1, 20)] == [20, 20]
    with pytest.raises(UserError, match=r"E264.*class 0 has 50 rows"):
        most_trusted(ROWS, [scores({})], 2, 0.1, 51)


def test_most_trusted_averages_draws() -> None:
    """A row that one draw trusts by chance and the other does not loses to one that both trust."""
    lucky, steady = ROWS[0].id, ROWS[2].id
    both = [scores({lucky: 0.95, steady: 0.9}), scores({lucky: 0.2, steady: 0.9})]
    assert most_trusted(ROWS, both, 2, 0.01, 1)[0] == {steady}
    assert most_trusted(ROWS, both[:1], 2, 0.01, 1)[0] == {lucky}


def test_draw_balanced_any_order_same_choice() -> None:
    shuffled = list(ROWS)
    Random(0).shuffle(shuffled)
    pools = most_trusted(ROWS, [scores({})], 2, 0.6, 10)
    assert pools == most_trusted(shuffled, [scores({})], 2, 0.6, 10)
    chosen = draw_balanced(pools, 21, 0, "p")
    assert sorted(sum(row.label == label for row in ROWS if row.id in chosen) for label in (0, 1)) == [10, 11]
    assert chosen != draw_balanced(pools, 21, 1, "p")


def test_screening_methods_differ_by_draw() -> None:
    """Draws differ in their spec; options that only use the scores are not in it."""
    one, two = Screening(draws=2).methods().values()
    assert one != two
    assert one == Screening().methods()["screen0"]
    spec = one.to_spec()
    assert spec == {
        "name": "early_trust",
        "check_every": 5,
        "probe": 100,
        "agreement": 0.5,
        "checkpoints": 1,
        "draw": 0,
    }
    assert "trusted_share" not in spec, "how the scores are used is not a reason to train again"


def test_fold_of_parts_of_the_rows() -> None:
    ids = [row.id for row in ROWS]
    parts = [fold_of(ids, 3, fold, seed=0) for fold in range(3)]
    assert set().union(*parts) == set(ids)
    assert [len(part) for part in parts] == [34, 33, 33]
    assert parts == [fold_of(ids[::-1], 3, fold, seed=0) for fold in range(3)]
    assert parts != [fold_of(ids, 3, fold, seed=1) for fold in range(3)]
    methods = Screening(folds=2, draws=2).methods()
    assert list(methods) == ["screen0_0", "screen0_1", "screen1_0", "screen1_1"]
    assert len({str(method) for method in methods.values()}) == 4


def test_most_trusted_models_ranked_apart() -> None:
    """The second half is scored by a model that is surer of everything; each half gives the same share all the same."""
    halves = [fold_of([row.id for row in ROWS], 2, fold, seed=0) for fold in range(2)]
    order = {row.id: at for at, row in enumerate(ROWS)}
    partial = [
        {
            "train": {
                id_: line
                for id_, line in scores({id_: base - 0.001 * order[id_] for id_ in half})["train"].items()
                if id_ in half
            }
        }
        for half, base in zip(halves, (0.7, 0.99), strict=True)
    ]
    zero, _ = most_trusted(ROWS, partial, 2, 0.2, 3)
    for half in halves:
        mine = sorted(row.id for row in ROWS if row.label == 0 and row.id in half)
        assert zero & half == set(mine[: int(0.2 * len(mine))])
    assert all(len(ids) >= 41 for ids in most_trusted(ROWS, partial, 2, 0.01, 41))
    with pytest.raises(UserError, match="E264"):
        most_trusted(ROWS, partial, 2, 0.1, 51)


def answers(trust: dict[str, float]) -> dict[str, dict[str, dict[str, object]]]:
    """Scores over original and extended labels (0, 1, 2, 3), the given one extended; original labels are likelier than
    any."""
    found = scores(trust)["train"]
    return {
        "train": {
            id_: {"label": 2 + line["label"], "scores": [0.0, 0.0, *line["scores"]]} for id_, line in found.items()
        }
    }  # type: ignore[operator,misc]


def test_vouched_for_rows_answered_as_given() -> None:
    """However nearly, and whatever it would have said in the original labels."""
    doubtful = {row.id for row in ROWS[:7]}
    zero, one = vouched_for(ROWS, answers({row.id: 0.49 if row.id in doubtful else 0.51 for row in ROWS}), 2, 1.0, 5)
    assert zero | one == {row.id for row in ROWS} - doubtful
    assert not zero & one


def test_vouched_for_at_least_count() -> None:
    order = {row.id: 0.4 - 0.001 * at for at, row in enumerate(ROWS)}
    zero, one = vouched_for(ROWS, answers(order), 2, 1.0, 5)
    assert zero == {row.id for row in ROWS[:10] if row.label == 0}
    assert len(one) == 5
    with pytest.raises(UserError, match=r"E264.*class 0 has 50 rows"):
        vouched_for(ROWS, answers({}), 2, 1.0, 51)


def test_vouched_for_share_most_confident() -> None:
    """A share of the rows that are answered as given, whatever share of the class these are."""
    order = {row.id: 0.7 - 0.005 * at for at, row in enumerate(ROWS)}
    zero, one = vouched_for(ROWS, answers(order), 2, 0.5, 5)
    assert zero == {row.id for row in ROWS[:20] if row.label == 0}, "the first 40 rows are answered as given"
    assert one == {row.id for row in ROWS[:20] if row.label == 1}


STOP = {"step": 5, "reached": True, "agreement": [0.6, 0.7], "majority_answer": 0.5, "majority_given": 0.5}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, None),
        ({"majority_answer": 0.99, "majority_given": 0.98}, None),
        (
            {"reached": False, "agreement": [0.4, 0.9]},
            r"never met \(step 5; .*: class 0 40 %, class 1 90 %",
        ),
        ({"reached": False, "agreement": [0.0, 1.0]}, "it ended in one class"),
        ({"majority_answer": 0.99}, "it ended in one class"),
    ],
)
def test_failure_of_a_screening_is_a_sentence(change: dict[str, object], says: str | None) -> None:
    failed = failure({**STOP, **change})
    assert (failed is None) == (says is None)
    assert failed is None or re.search(str(says), failed.reason)


def test_failed_screening_stops_or_goes_on() -> None:
    """By default; one that came before the share of the commonest answer was recorded is judged by its rule."""
    stop = {"step": 4, "reached": False, "agreement": [0.0, 1.0], "checkpoints": 1}
    failed = {**scores({}), "screening": {"stop": stop}}
    view = DefenderView(train=ROWS, reserve=[], n_classes=2, seed=0, scores={"screen0": failed})
    with pytest.raises(UserError, match=r"E270.*it ended in one class.*on_failed_screening=go_on"):
        Screening().trusted_ids(view, 5)
    assert len(Screening(on_failed_screening="go_on").trusted_ids(view, 5)) == 2
    assert "on_failed_screening" not in Screening().model_dump()


def test_answered_alike_counts_the_commonest_answer() -> None:
    lines = [(0, [0.9, 0.1]), (1, [0.8, 0.2]), (1, [0.7, 0.3]), (1, [0.1, 0.9])]
    assert answered_alike(lines, 2) == {"majority_answer": 0.75, "majority_given": 0.25}


def test_screening_vouched_share_without_rounds_refused() -> None:
    with pytest.raises(ValueError, match="rounds: 2"):
        Screening(vouched_share=0.8)
