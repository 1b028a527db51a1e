"""Which test rows a judge refuses, by the confidence of its likeliest label (PSIM, arXiv 2402.12168): pure
functions."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from p2p_dist.data.defense import Scores


def refused_rows(scores: Scores, how: Mapping[str, Any]) -> dict[str, set[str]]:
    """By suite: ids of the rows whose confidence is above the threshold, that of the option `above` or, without it, the
    lowest that refuses at most the share `false_rejections` of the checked rows."""
    sure = {name: {id_: confidence(line["scores"]) for id_, line in rows.items()} for name, rows in scores.items()}
    above = how.get("above")
    least = (
        float(above) if above is not None else threshold(list(sure["reserve"].values()), float(how["false_rejections"]))
    )
    return {
        name: {id_ for id_, found in rows.items() if found > least} for name, rows in sure.items() if name != "reserve"
    }


def confidence(scores: Sequence[float]) -> float:
    """Probability of the likeliest label among the label words, rounded to three decimals as in the released code."""
    top = max(scores)
    return round(1 / sum(math.exp(score - top) for score in scores), 3)


def threshold(clean: Sequence[float], false_rejections: float) -> float:
    """The smallest number that at most this share of the clean confidences is above."""
    ordered = sorted(clean, reverse=True)
    return ordered[min(int(false_rejections * len(ordered)), len(ordered) - 1)]
