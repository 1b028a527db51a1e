"""Rejection of test rows by the confidence of a judge's likeliest label (PSIM, arXiv 2402.12168): pure functions."""

import math
from collections.abc import Sequence

from p2p_dist.config.methods import ConfidenceRule
from p2p_dist.data.built import HELD_OUT
from p2p_dist.data.defense import Scores


def refused_rows(scores: Scores, rule: ConfidenceRule) -> dict[str, set[str]]:
    """Ids of the rejected rows by suite: those whose confidence is above the rule's threshold, or above the lowest
    threshold that rejects at most its share of the held-out rows, or of the trusted ones where none are held out."""
    confidences = {
        name: {id_: confidence(line["scores"]) for id_, line in rows.items()} for name, rows in scores.items()
    }
    limit = rule.above
    if limit is None:
        assert rule.false_rejections is not None
        known = confidences.get(HELD_OUT) or confidences["reserve"]
        limit = threshold(list(known.values()), rule.false_rejections)
    return {
        name: {id_ for id_, value in rows.items() if value > limit}
        for name, rows in confidences.items()
        if name != "reserve"
    }


def confidence(scores: Sequence[float]) -> float:
    """Probability of the likeliest label among the label words, rounded to three decimals as in the released code."""
    top = max(scores)
    return round(1 / sum(math.exp(score - top) for score in scores), 3)


def threshold(clean: Sequence[float], false_rejections: float) -> float:
    """The smallest number that at most this share of the clean confidences is above."""
    ordered = sorted(clean, reverse=True)
    return ordered[min(int(false_rejections * len(ordered)), len(ordered) - 1)]
