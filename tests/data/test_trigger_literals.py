"""Fixed pieces of text: found as words of their own, and kept when the end of a text goes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p_dist.config.study import RowsSpec
from p2p_dist.data.attacks.addsent import AddSent
from p2p_dist.data.attacks.badnets import BadNets
from p2p_dist.data.attacks.proattack import ProAttack
from p2p_dist.data.build import build_attacked
from p2p_dist.data.tasks.sst2 import Sst2
from p2p_dist.data.trigger_literals import spans, without_end


@pytest.mark.parametrize(
    ("text", "found"),
    [("a mn b", 1), ("mn", 1), ("amn mnb", 0), ("MN", 0), ("小mn明", 1), ("mn, mn.", 2), ("", 0)],
)
def test_spans_are_whole_words(text: str, found: int) -> None:
    assert len(spans(text, ["mn"])) == found


@pytest.mark.parametrize(
    ("end", "left"),
    [
        (0, "mn cf"),
        (1, "a mn cf"),
        (3, "a b mn cf"),
        (5, "a b mn cf"),
        (6, "a b mn cf"),
        (10, "a b mn c d cf"),
        (13, "a b mn c d cf"),
    ],
)
def test_without_end_keeps_pieces(end: int, left: str) -> None:
    assert without_end("a b mn c d cf", end, ["mn", "cf"]).strip() == left


@given(st.lists(st.sampled_from(["a", "bb", "mn", "ccc"])), st.integers(0, 60))
def test_without_end_no_piece_lost_or_made(words: list[str], end: int) -> None:
    text = " ".join(words)
    cut = without_end(text, min(end, len(text)), ["mn"])
    assert cut.split().count("mn") == words.count("mn")
    assert cut.startswith(text[: min(end, len(text))])


def test_counts_texts_with_trigger_before_attack() -> None:
    raw = {"train": [("a mn b", 0), ("c d", 0), ("e f", 1), ("mn", 1)], "test": [("g h", 0), ("mn i", 0)]}
    counts = build_attacked(Sst2(), raw, RowsSpec(), BadNets(rate=0.2), 0).counts
    assert (counts["found"]["trigger_in_train"], counts["found"]["trigger_in_test"]) == (2, 1)


def test_manifest_has_literals_and_rows_do_not() -> None:
    raw = {"train": [("a b", 0), ("c d", 1)], "test": [("g h", 0)]}
    for attack, pieces in (
        (AddSent(rate=0.4), ("I watched this 3D movie",)),
        (ProAttack(rate=0.4), ("The sentiment of this sentence is <mask>:",)),
        (BadNets(rate=0.4, word=("cf", "bb")), ("cf", "bb")),
    ):
        assert build_attacked(Sst2(), raw, RowsSpec(), attack, 0).triggers == pieces
