"""Which training rows to trust, from what an early model said about them: pure functions over scores.

Within every class rows are ranked by the log-odds of their given label against the best other one; ranks are not
compared between classes, so a model that leans to one class does no harm, and the trusted set is as balanced as it is
asked to be.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from p2p_dist.config.methods import EarlyTrust
from p2p_dist.config.study import Rate, Strict
from p2p_dist.data.defense import DefenderView, Scores
from p2p_dist.data.example import Row, drawn, smallest
from p2p_dist.errors import user_error

AGAIN = "again"
"""The role of what the model of the first round says about the rows."""


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
    folds: Annotated[int, Field(ge=2, le=10)] | None = None
    """Cross-fitting: cut the rows into so many parts, and have each looked at and scored by a training on the others.
    null: a row is scored by a model that may have trained on it."""
    trusted_share: Rate = 0.5
    """Of every class, the benign rows are drawn from this share that is trusted most (or from as many as are
    needed)."""
    rounds: Literal[2] | None = None
    """2: screen again by the model that was defended with the rows of the first round. Asked as it would be when it is
    deployed, it vouches for the rows that it answers with their given label, easy or not. null: one round."""
    vouched_share: Rate | None = None
    """With two rounds: of every class, the benign rows are drawn from this share, which it is surest of, of the rows
    that it vouches for. null: from all of them."""

    @model_validator(mode="after")
    def _vouched_needs_rounds(self) -> Self:
        if self.vouched_share is not None and self.rounds is None:
            raise ValueError("vouched_share is for two rounds: add rounds: 2")
        return self

    def methods(self) -> dict[str, EarlyTrust]:
        """The score stages by role: one for every draw, and with folds one for every draw and part (see
        `p2p_dist.scores.early`)."""
        draws = {
            f"screen{draw}": EarlyTrust(
                check_every=self.check_every,
                probe=self.probe,
                agreement=self.agreement,
                checkpoints=self.checkpoints,
                draw=draw,
            )
            for draw in range(self.draws)
        }
        if self.folds is None:
            return draws
        return {
            f"{role}_{fold}": method.model_copy(update={"folds": self.folds, "fold": fold})
            for role, method in draws.items()
            for fold in range(self.folds)
        }

    def once(self) -> dict[str, Any]:
        """The options of the first of two rounds: those of a screening that has no second."""
        return self.model_copy(update={"rounds": None, "vouched_share": None}).model_dump()

    def chosen(self, view: DefenderView, wanted: int) -> list[set[str]]:
        """By class: ids of the rows to trust, after the first round or the second, whichever the defender was given
        scores of; at least `wanted` of each."""
        if AGAIN in view.scores:
            return vouched_for(view.train, view.scores[AGAIN], view.n_classes, self.vouched_share or 1.0, wanted)
        return trusted(
            view.train, [view.scores[role] for role in sorted(view.scores)], view.n_classes, self.trusted_share, wanted
        )


def stops(view: DefenderView) -> list[dict[str, Any]]:
    """Where each screening training stopped, for the manifest; none in the second round."""
    return [dict(scores["screening"]["stop"]) for _, scores in sorted(view.scores.items()) if "screening" in scores]


def fold_of(ids: Iterable[str], folds: int, fold: int, seed: int) -> set[str]:
    """The ids of one of several parts of (nearly) the same size, by content."""
    return set(drawn(ids, seed, "screen.fold")[fold::folds])


def trusted(rows: Sequence[Row], scores: Sequence[Scores], n_classes: int, share: float, wanted: int) -> list[set[str]]:
    """By class: ids of the `share` of its rows that is trusted most, or of the `wanted` most trusted ones if these are
    more.

    Rows that different models have scored are ranked apart and give the same share, since one model may be surer than
    another. Raises UserError E264 when a class has fewer rows than wanted.
    """
    own = [
        row for row in rows if row.label < n_classes
    ]  # an attacker who knows the scheme writes labels that are no class
    by = {row.id: tuple(at for at, of in enumerate(scores) if row.id in of["train"]) for row in own}
    margin = {row.id: sum(_margin(scores[at]["train"][row.id], n_classes) for at in by[row.id]) for row in own}
    found = []
    for label in range(n_classes):
        pool = _enough(
            sorted((row.id for row in own if row.label == label), key=lambda id_: (by[id_], -margin[id_], id_)),
            label,
            wanted,
        )
        parts = [list(part) for _, part in groupby(pool, key=by.__getitem__)]
        found.append(
            {
                id_
                for part in parts
                for id_ in part[: max(math.ceil(wanted * len(part) / len(pool)), int(share * len(part)))]
            }
        )
    return found


def vouched_for(rows: Sequence[Row], scores: Scores, n_classes: int, share: float, wanted: int) -> list[set[str]]:
    """By class: ids of the `share`, which it is surest of, of the rows that a defended model answers with their given
    label, or of the `wanted` surest ones if these are more. Raises UserError E264 when a class has fewer rows than
    wanted."""
    margin = {row.id: _margin(scores["train"][row.id], n_classes) for row in rows if row.label < n_classes}
    found = []
    for label in range(n_classes):
        pool = _enough(
            sorted((row.id for row in rows if row.label == label), key=lambda id_: (-margin[id_], id_)), label, wanted
        )
        found.append(set(pool[: max(wanted, int(share * sum(margin[id_] > 0 for id_ in pool)))]))
    return found


def choose(trusted_ids: Sequence[set[str]], wanted: int, seed: int, purpose: str) -> set[str]:
    """`wanted` trusted rows, the same number of every class; what does not divide goes to the first classes."""
    n = len(trusted_ids)
    counts = [wanted // n + (label < wanted % n) for label in range(n)]
    return {id_ for ids, count in zip(trusted_ids, counts, strict=True) for id_ in smallest(ids, count, seed, purpose)}


def _enough(pool: list[str], label: int, wanted: int) -> list[str]:
    if len(pool) < wanted:
        what = f"class {label} has {len(pool)} rows, and {wanted} benign rows of every class are wanted"
        raise user_error("E264", what, "defense.ratio", "a lower ratio, or more rows of the class")
    return pool


def _margin(line: Mapping[str, Any], n_classes: int) -> float:
    """Log-odds of the given label against the best other one of its space: the original labels, or the extended
    ones."""
    given, scores = int(line["label"]), line["scores"]
    first = given - given % n_classes
    return float(scores[given] - max(scores[label] for label in range(first, first + n_classes) if label != given))
