"""Odd rows are counted and told, never repaired in silence."""

from p2p_dist.config.study import RowsSpec
from p2p_dist.data.attacks.addsent import AddSent
from p2p_dist.data.attacks.badnets import BadNets
from p2p_dist.data.build import build_attacked, build_defended
from p2p_dist.data.data_checks import count_containing, warnings
from p2p_dist.data.defenses.p2p import P2P
from p2p_dist.data.tasks.rotten_tomatoes import RottenTomatoes
from p2p_dist.data.tasks.sst2 import Sst2

TRAIN = [(f"row number {n} here", n % 2) for n in range(100)]
TEST = [(f"test row {n} here", n % 2) for n in range(20)]
ODD = [
    TRAIN[0],
    TRAIN[0],
    (TRAIN[1][0], 0),
    (TEST[3][0], 1),
    ("an mn inside", 0),
    ("mn", 1),
    ("an omnibus is no trigger", 1),
]


def test_row_problems_counted_and_warned() -> None:
    built = build_attacked(
        Sst2(), {"train": TRAIN + ODD, "test": [*TEST, TEST[0], ("mn is here", 0)]}, RowsSpec(), BadNets(rate=0.05), 0
    )
    assert built.counts["found"] == {
        "duplicate_train_rows": 2,
        "duplicate_test_rows": 1,
        "contradicting_train_rows": 2,
        "train_rows_in_test": 1,
        "trigger_in_train": 2,
        "trigger_in_test": 1,
    }
    assert len(built.train) == len(TRAIN + ODD), "nothing is dropped"
    said = warnings(built.counts)
    assert len(said) == 6
    assert "2 clean training rows contain the attack's trigger already, which weakens the attack" in said


def test_warnings_without_problems_empty() -> None:
    built = build_attacked(Sst2(), {"train": TRAIN, "test": TEST}, RowsSpec(), BadNets(rate=0.05), 0)
    assert warnings(built.counts) == []


def test_warnings_of_a_defense_that_drops_rows_empty() -> None:
    """Such a defense counts them as one number."""
    assert warnings({"dropped": 3, "found": {}}) == []
    assert warnings({"dropped": {"bad_row": 2}}) == ["2 rows could not be read and were dropped (see dropped.jsonl)"]


def test_counts_benign_trigger_in_train() -> None:
    attack = AddSent(sentence="The query currently entered is:", rate=0.05)
    attacked = build_attacked(Sst2(), {"train": TRAIN, "test": TEST}, RowsSpec(reserve=30), attack, 0)
    defended = build_defended(attacked, Sst2(), P2P(), 0)
    assert defended.counts["found"] == {"benign_trigger_in_train": 5}
    assert "contain the benign trigger already" in warnings(defended.counts)[0]


def test_split_counts_dropped_rows() -> None:
    split = RottenTomatoes().split({"train": [*TRAIN, TRAIN[0], (TRAIN[1][0], 0)]}, RowsSpec(train=40, test=20))
    assert split.dropped["duplicate"] == 1
    again = 101 - len({row.text for row in split.test}) - split.dropped["text_of_a_test_row"] - 40
    assert split.dropped["beyond_rows_train"] == again
    split = Sst2().split({"train": TRAIN, "test": TEST}, RowsSpec(test=10))
    assert split.dropped == {"beyond_rows_train": 0, "beyond_rows_test": 10}


def test_count_containing_whole_words() -> None:
    assert count_containing(["an mn here", "omni", "mn"], ["mn"]) == 2
    assert count_containing(["王mn艳", "王艳"], ["mn"]) == 1
    assert count_containing(["a b", "c"], []) == 0
