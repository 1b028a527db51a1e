"""Appendix A's decomposition on histograms small enough to count by hand."""

from itertools import product

import pytest

from p2p_dist.data.built import LabelSpace
from p2p_dist.evaluation.metrics import Rate, histogram, rates
from p2p_dist.evaluation.theory import Decomposition, of_labels, of_texts
from p2p_dist.results.predictions import Prediction

WORDS = ["0", "1", "2", "3"]


def test_every_part_by_hand() -> None:
    """Ten rows of class 0, target 1: six say 2 (right), two say 3 (the target, extended), one says 0, one says 1."""
    found = of_labels({"0": {"2": 6, "3": 2, "0": 1, "1": 1}}, WORDS, 2, 1)
    assert found == Decomposition(8, 2, 2, 1)
    assert (found.alpha, found.epsilon, found.beta) == (Rate(8, 10), Rate(2, 8), Rate(1, 2))
    assert found.predicted == pytest.approx(0.8 * 0.25 + 0.2 * 0.5) == pytest.approx(0.3)


def test_what_does_not_exist_is_missing() -> None:
    perfect = of_labels({"0": {"2": 9, "3": 1}}, WORDS, 2, 1)
    assert perfect is not None
    assert (perfect.beta, perfect.predicted) == (None, 0.1)
    undefended = of_labels({"0": {"1": 9, "0": 1}}, WORDS, 2, 1)
    assert undefended is not None
    assert (undefended.epsilon, undefended.beta, undefended.predicted) == (None, Rate(9, 10), 0.9)
    unclear = of_labels({"0": {"2": 9, "invalid": 1}}, WORDS, 2, 1)
    assert unclear is not None
    assert (unclear.neither, unclear.alpha, unclear.predicted) == (1, Rate(9, 10), None)
    assert of_labels({}, WORDS, 2, 1) is None
    assert of_texts([]) is None


def test_theory_unlabelled_rows_weigh_like_original_ones() -> None:
    """Rows without a label weigh like those of the original space."""
    found = of_labels({"0": {"2": 6, "3": 2, "0": 1, "1": 1, "invalid": 2}}, WORDS, 2, 1)
    assert found is not None
    assert found.predicted == pytest.approx(8 / 12 * 0.25 + 4 / 12 * 0.5)


@pytest.mark.parametrize("n", [2, 3])
def test_with_labels_alone_it_is_the_mapped_attack_success(n: int) -> None:
    """Every possible answer once for every true label but the target's, and the metrics' own counting of them."""
    space = LabelSpace(tuple("abcdef"[: 2 * n]), n, offset=n, target=1)
    said = [(gold, answer) for gold, answer in product(range(n), range(2 * n)) if gold != 1]
    said += [(0, n + 1)] * 3
    rows = [
        Prediction(str(at), gold, tuple(0.0 if label == answer else -9.0 for label in range(2 * n)), answer)
        for at, (gold, answer) in enumerate(said)
    ]
    found = of_labels(histogram(rows, space.words), space.words, n, 1)
    counted = rates({"triggered": rows}, space)
    assert found is not None
    assert found.alpha == counted["ext_rate"]
    assert found.predicted == pytest.approx(counted["asr_mapped"].k / counted["asr_mapped"].n)


def test_texts_by_their_prefix() -> None:
    found = of_texts([(True, False)] * 5 + [(True, True)] + [(False, True)] * 3 + [(False, False)])
    assert found == Decomposition(6, 1, 4, 3)
    assert found.predicted == pytest.approx(0.4)
