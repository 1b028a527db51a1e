"""Screening: choose training rows to trust from the scores of a model that has just begun to learn the task.

Rows are ranked within their class by the log-odds of the given label against the best other one. Ranks of different
classes are not compared: a model that leans to one class does no harm, and the trusted set has the class balance that
is asked for. Pure functions over scores. Not in the P2P paper; see docs/defenses.md.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from p2p_dist.config.builder import Builder
from p2p_dist.config.graph import Stage
from p2p_dist.config.score_methods import EarlyTrust, LabelScores
from p2p_dist.config.study import Rate, Strict, added
from p2p_dist.data import screening_stops
from p2p_dist.data.defense import DataDefense, Defended, DefenderView, Scores
from p2p_dist.data.example import Row, drawn, smallest
from p2p_dist.data.row_counts import RowCounts
from p2p_dist.errors import UserError, user_error

SECOND_ROUND = "again"
"""Role of the scores by the model of the first round."""
ASKED = "asked"
"""Phase in which training rows are turned into prompts of the deployed model, to be scored in the second round."""


class Screening(Strict):
    """Options of the screening that finds benign rows when no trusted rows are reserved."""

    check_every: Annotated[int, Field(ge=1)] = 5
    """Training steps between two checks of the probe."""
    probe: Annotated[int, Field(ge=10)] = 100
    """Training rows per class in the probe; fewer where a class has fewer."""
    agreement: Rate = 0.5
    """Stop at the first check at which this share of the probe, in every class, is answered with its given label."""
    checkpoints: Annotated[int, Field(ge=1)] = 1
    """Checks to average over, from the stop on."""
    draws: Annotated[int, Field(ge=1)] = 1
    """Screening trainings to average over, each with another start and order."""
    folds: Annotated[int, Field(ge=2, le=10)] | None = None
    """Cross-fitting: cut the rows into this many parts, and check and score each by a training on the others. null: a
    row may be scored by a model that trained on it."""
    trusted_share: Rate = 0.5
    """Draw the benign rows from this most trusted share of every class (or from as many rows as are needed)."""
    rounds: Literal[2] | None = None
    """2: screen again by the model that was defended with the rows of the first round. Prompted as in deployment, it
    vouches for the rows that it answers with their given label, easy or not. null: one round."""
    vouched_share: Rate | None = None
    """With two rounds: draw the benign rows from this share of the rows that the model vouches for, most confident
    first. null: from all of them."""

    on_failed_screening: Literal["stop", "go_on"] = added("stop")
    """A screening fails when its rule is never met, or when the model gives one answer to all rows. stop: the runs that
    need it fail. go_on: rows are chosen by its scores all the same, and every view of the study says so."""

    @model_validator(mode="after")
    def _vouched_needs_rounds(self) -> Self:
        if self.vouched_share is not None and self.rounds is None:
            raise ValueError("vouched_share is for two rounds: add rounds: 2")
        return self

    def methods(self) -> dict[str, EarlyTrust]:
        """Score methods by role: one for every draw, and with folds one for every draw and part."""
        draws = {
            f"screen{draw}": EarlyTrust(
                check_every=self.check_every,
                probe=self.probe,
                agreement=self.agreement,
                checkpoints=self.checkpoints,
                distinct=self.checkpoints > 1,
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

    def score_stages(self, build: Builder, rows: Stage, prompted: bool) -> dict[str, Stage]:
        """Score stages of the last round, by role.

        Of two rounds the first ends with a model that was defended with the rows it trusts. That model scores the rows
        as they are, or, if `prompted`, as prompts of the deployed system (`rows_as_prompts`).
        """
        scores = {role: build.scored(rows, method) for role, method in self.methods().items()}
        if self.rounds is None:
            return scores
        changes = {"screening": self.first_round_options()}
        model = build.trained(build.defended(rows, scores, changes=changes))
        asked = build.defended(rows, phase=ASKED, changes=changes) if prompted else rows
        return {SECOND_ROUND: build.scored(asked, LabelScores(sets=("train",)), model)}

    def first_round_options(self) -> dict[str, Any]:
        """Options of the first of two rounds: those of a screening without a second."""
        return self.model_copy(update={"rounds": None, "vouched_share": None}).model_dump()

    def require_success(self, view: DefenderView) -> None:
        """Raise UserError E270 for a failed screening, unless `on_failed_screening` is go_on."""
        if self.on_failed_screening == "stop":
            screening_stops.require_success(view, "defense.screening")

    def trusted_ids(self, view: DefenderView, count: int) -> list[set[str]]:
        """Ids of the rows to trust by class, at least `count` of each, after the round that `view` has scores of.

        Raises UserError E264 when a class has fewer rows, E270 for a failed screening with `on_failed_screening: stop`.
        """
        self.require_success(view)
        if SECOND_ROUND in view.scores:
            share = 1.0 if self.vouched_share is None else self.vouched_share
            return vouched_for(view.train, view.scores[SECOND_ROUND], view.n_classes, share, count)
        scores = [view.scores[role] for role in sorted(view.scores)]
        return most_trusted(view.train, scores, view.n_classes, self.trusted_share, count)


def rows_as_prompts(defense: DataDefense, view: DefenderView) -> Defended:
    """Training rows as prompts of the deployed model with their given labels among its own (phase `asked`).

    Rows whose given label is no class are left out: an attacker who knows the defense writes such labels.
    """
    offset = defense.label_offset(view.n_classes)
    prompts = [
        replace(defense.defend_prompt(row), label=row.label + offset)
        for row in view.train
        if row.label < view.n_classes
    ]
    return Defended(prompts, [], {"asked": len(prompts)})


def answered_alike(lines: Iterable[tuple[int, Sequence[float]]], n_classes: int) -> dict[str, float]:
    """Share of the commonest answer among rows, given as label and scores, and the share of rows with that label."""
    rows = [(label, max(range(n_classes), key=scores.__getitem__)) for label, scores in lines]
    usual, count = Counter(best for _, best in rows).most_common(1)[0]
    given = sum(label == usual for label, _ in rows)
    return {"majority_answer": count / len(rows), "majority_given": given / len(rows)}


def fold_of(ids: Iterable[str], folds: int, fold: int, seed: int) -> set[str]:
    """Ids of one of `folds` parts of (nearly) equal size, by content."""
    return set(drawn(ids, seed, "screen.fold")[fold::folds])


def most_trusted(
    rows: Sequence[Row], scores: Sequence[Scores], n_classes: int, share: float, count: int
) -> list[set[str]]:
    """Ids of the most trusted `share` of every class, or of its `count` most trusted rows if these are more.

    Rows that different models scored are ranked apart and give the same share, since one model may be more confident
    than another. Raises UserError E264 when a class has fewer than `count` rows.
    """
    labelled = [row for row in rows if row.label < n_classes]
    scorers = {
        row.id: tuple(index for index, score in enumerate(scores) if row.id in score["train"]) for row in labelled
    }
    margins = {
        row.id: sum(_margin(scores[index]["train"][row.id], n_classes) for index in scorers[row.id]) for row in labelled
    }
    trusted = []
    for label in range(n_classes):
        ids = (row.id for row in labelled if row.label == label)
        ranked = sorted(ids, key=lambda id_: (scorers[id_], -margins[id_], id_))
        _check_count(ranked, label, count)
        parts = [list(part) for _, part in groupby(ranked, key=scorers.__getitem__)]
        sizes = [max(math.ceil(count * len(part) / len(ranked)), int(share * len(part))) for part in parts]
        trusted.append({id_ for part, size in zip(parts, sizes, strict=True) for id_ in part[:size]})
    return trusted


def vouched_for(rows: Sequence[Row], scores: Scores, n_classes: int, share: float, count: int) -> list[set[str]]:
    """Ids by class of the rows that a defended model answers with their given label: the most confident `share` of
    them, or its `count` most confident rows if these are more.

    Raises UserError E264 when a class has fewer than `count` rows.
    """
    margins = {row.id: _margin(scores["train"][row.id], n_classes) for row in rows if row.label < n_classes}
    vouched = []
    for label in range(n_classes):
        ranked = sorted((row.id for row in rows if row.label == label), key=lambda id_: (-margins[id_], id_))
        _check_count(ranked, label, count)
        agreed = sum(margins[id_] > 0 for id_ in ranked)
        vouched.append(set(ranked[: max(count, int(share * agreed))]))
    return vouched


def draw_balanced(ids_by_class: Sequence[set[str]], count: int, seed: int, purpose: str) -> set[str]:
    """`count` ids, the same number of every class; a remainder goes to the first classes."""
    n = len(ids_by_class)
    sizes = [count // n + (label < count % n) for label in range(n)]
    return {id_ for ids, size in zip(ids_by_class, sizes, strict=True) for id_ in smallest(ids, size, seed, purpose)}


def class_shortage(counts: RowCounts, count: int) -> UserError | None:
    """E264 where a class has fewer than `count` rows to trust, or None."""
    sizes = {label: counts.train_by_class.get(label, 0) for label in range(counts.n_classes)}
    smallest_class = min(sizes, key=lambda label: sizes[label], default=0)
    if not sizes or sizes[smallest_class] >= count:
        return None
    return _too_few_of_class(sizes[smallest_class], smallest_class, count)


def _check_count(ids: Sequence[str], label: int, count: int) -> None:
    if len(ids) < count:
        raise _too_few_of_class(len(ids), label, count)


def _too_few_of_class(rows: int, label: int, count: int) -> UserError:
    return user_error(
        "E264",
        f"class {label} has {rows} rows; {count} benign rows of every class are needed",
        "defense.ratio",
        "lower defense.ratio or add rows of the class",
    )


def _margin(line: Mapping[str, Any], n_classes: int) -> float:
    """Log-odds of the given label against the best other one of its space (original or extended labels)."""
    given, scores = int(line["label"]), line["scores"]
    first = given - given % n_classes
    return float(scores[given] - max(scores[label] for label in range(first, first + n_classes) if label != given))
