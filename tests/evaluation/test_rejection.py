"""Whom a judge refuses: by its confidence, with one rule for clean and triggered rows."""

import math

import pytest

from p2p_dist.config.methods import ConfidenceRule
from p2p_dist.data.built import LabelSpace
from p2p_dist.evaluation.metrics import Rate, rates
from p2p_dist.evaluation.rejection import confidence, refused_rows, threshold
from p2p_dist.results.predictions import Prediction


def line(p: float) -> dict[str, list[float]]:
    return {"scores": [math.log(p) - 5, math.log(1 - p) - 5]}


def test_confidence_is_among_the_labels_and_rounded() -> None:
    assert confidence(line(0.7)["scores"]) == 0.7
    assert confidence([-2.0, -2.0, -2.0]) == 0.333


def test_the_threshold_refuses_at_most_the_share() -> None:
    clean = [0.5 + at / 1000 for at in range(100)]
    least = threshold(clean, 0.02)
    assert sum(found > least for found in clean) == 2
    assert threshold([0.6, 0.6], 0.02) == 0.6


def test_exactly_the_threshold_is_kept_in_every_suite() -> None:
    scores = {"clean": {"a": line(0.7), "b": line(0.71)}, "triggered": {"c": line(0.7), "d": line(0.99)}}
    assert refused_rows(scores, ConfidenceRule(above=0.7)) == {"clean": {"b"}, "triggered": {"d"}}
    reserve = {str(at): line(0.6 + at / 1000) for at in range(100)}
    assert refused_rows({**scores, "reserve": reserve}, ConfidenceRule(false_rejections=0.02)) == {
        "clean": {"a", "b"},
        "triggered": {"c", "d"},
    }


def test_threshold_is_chosen_on_held_out_rows_if_any() -> None:
    """Trusted rows are trained on, so that a judge is surer of them."""
    reserve = {str(index): line(0.6 + index / 1000) for index in range(100)}
    held_out = {str(index): line(0.8 + index / 1000) for index in range(100)}
    scores = {"clean": {"a": line(0.75), "b": line(0.95)}, "reserve": reserve, "held_out": held_out}
    refused = refused_rows(scores, ConfidenceRule(false_rejections=0.02))
    assert refused["clean"] == {"b"}


@pytest.mark.parametrize("judged", [True, False])
def test_refused_is_wrong_on_clean_and_no_success_on_triggered(judged: bool) -> None:
    rows = [
        Prediction("a", 1, (-3.0, -0.1), 1, rejected=judged or None),
        Prediction("b", 0, (-0.1, -3.0), 0, rejected=False if judged else None),
    ]
    hit = [Prediction("c", 0, (-3.0, -0.1), 1, rejected=judged or None)]
    found = rates({"clean": rows, "triggered": hit}, LabelSpace(["0", "1"], 2, target=1))
    assert found["ca_ext"] == Rate(1 if judged else 2, 2)
    assert found["asr_ext"] == Rate(0 if judged else 1, 1)
    assert ("rejected_clean" in found) is judged
    assert found.get("rejected_triggered") == (Rate(1, 1) if judged else None)
