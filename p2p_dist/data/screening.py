"""Which training rows to trust, from what an early model said about them: pure functions over scores.

Within every class rows are ranked by the log-odds of their given label against the best other one; ranks are not compared
between classes, so a model that leans to one class does no harm, and the trusted set is as balanced as it is asked to be.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from p2p_dist.data.defense import Scores
from p2p_dist.data.example import Row, smallest
from p2p_dist.errors import user_error
from p2p_dist.spec.study import Rate, Strict


class Screening(Strict):
    """How the benign rows are screened when nobody has checked any."""

    check_every: Annotated[int, Field(ge=1)] = 5
    """Training steps between two looks at the probe."""
    probe: Annotated[int, Field(ge=10)] = 100
    """Training rows per class that are looked at; fewer where a class has fewer."""
    agreement: Rate = 0.5
    """Stop at the first look at which this share of the probe, in every class, is answered with its given label."""
    checkpoints: Annotated[int, Field(ge=1)] = 1
    """Average over this many looks from there on."""
    draws: Annotated[int, Field(ge=1)] = 1
    """Average over this many screening trainings with different starts and orders."""
    trusted_share: Rate = 0.3
    """Of every class, the benign rows are drawn from this share that is trusted most (or from as many as are needed)."""

    def method(self, draw: int) -> dict[str, Any]:
        """The score stage of one draw (see `p2p_dist.scores.early`)."""
        options = {"check_every": self.check_every, "probe": self.probe, "agreement": self.agreement, "checkpoints": self.checkpoints}
        return {"name": "early_trust", **options, "draw": draw}


def trusted(rows: Sequence[Row], scores: Sequence[Scores], n_classes: int, share: float, wanted: int) -> list[set[str]]:
    """By class: ids of the `share` of its rows that is trusted most, or of the `wanted` most trusted ones if these are more.

    Raises UserError E264 when a class has fewer rows than wanted.
    """
    margin = {row.id: sum(_margin(of["train"][row.id], n_classes) for of in scores) for row in rows}
    found = []
    for label in range(n_classes):
        pool = sorted((row.id for row in rows if row.label == label), key=lambda id_: (-margin[id_], id_))
        if len(pool) < wanted:
            what = f"class {label} has {len(pool)} rows, and {wanted} benign rows of every class are wanted"
            raise user_error("E264", what, "defense.ratio", "a lower ratio, or more rows of the class")
        found.append(set(pool[: max(wanted, int(share * len(pool)))]))
    return found


def choose(trusted_ids: Sequence[set[str]], wanted: int, seed: int, purpose: str) -> set[str]:
    """`wanted` trusted rows, the same number of every class; what does not divide goes to the first classes."""
    n = len(trusted_ids)
    counts = [wanted // n + (label < wanted % n) for label in range(n)]
    return {id_ for ids, count in zip(trusted_ids, counts, strict=True) for id_ in smallest(ids, count, seed, purpose)}


def _margin(line: Mapping[str, Any], n_classes: int) -> float:
    """Log-odds of the given label against the best other one of the task."""
    given, scores = int(line["label"]), line["scores"]
    return float(scores[given] - max(scores[label] for label in range(n_classes) if label != given))
