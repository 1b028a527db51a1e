"""SEEP-style (He et al. 2024, arXiv 2405.11575): seeds by training dynamics, then their neighbours. Ours after the
abstract: no code was found, and the paper's constants, layer and stopping rule were not read.

1. Score every row by mu = mean of 1 / (1 - p(given label)) over models of one training (`looks`).
2. Take the `seeds` share of every class with the largest mu.
3. Add the nearest neighbours (cosine of hidden states) of the suspects within the class, until the rows that are added
   are no nearer to the suspects than rows of the class usually are to their own nearest neighbour.
4. Drop the suspects and train again.

SEEP takes for granted that poisoned rows are learned faster. Early language models believe clean rows, so that
`looks: early` makes seeds of clean rows; read both beside each other.
"""

import math
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from p2p_dist.config.builder import Builder
from p2p_dist.config.graph import Stage
from p2p_dist.config.score_methods import AnswerStates, LabelScores
from p2p_dist.config.study import Rate
from p2p_dist.data.clustering import require_pairs
from p2p_dist.data.defense import Assumptions, DataDefense, Defended, DefenderView
from p2p_dist.data.example import Row, by_id, share
from p2p_dist.data.filtering import without
from p2p_dist.data.screening import Screening

if TYPE_CHECKING:
    import numpy as np

LARGEST = 1e6
"""Bound of 1 / (1 - p)."""
STATES, TRAINED = "states", "trained"


class Seep(DataDefense):
    """Drop the rows that are learned with most confidence, and their neighbours, and train again."""

    default_assumptions: ClassVar[Assumptions] = Assumptions(
        source="ours after the abstract of SEEP (arXiv 2405.11575); constants, layer and stopping rule are ours"
    )

    looks: Literal["trained", "early", "both"] = "trained"
    """Models that give p. trained: the undefended adapter. early: the early model of P2P's screening. both: their
    mean."""
    seeds: Rate = 0.01
    """Share of every class that seeds the search."""
    neighbours: Annotated[int, Field(ge=1)] = 5
    """Nearest rows that each suspect adds at a time."""
    max_drop: Rate = 0.5
    """Share of a class that may be dropped; a class that would lose more keeps all its rows."""
    screening: Screening | None = None
    """Options of the early model, as P2P's; one round."""

    @model_validator(mode="after")
    def _one_round(self) -> "Seep":
        if self.screening is not None and (self.looks == TRAINED or self.screening.rounds is not None):
            raise ValueError("screening is for looks: early or both, and has one round")
        return self

    def stages(self, build: Builder, rows: Stage) -> Stage:
        adapter = build.trained(rows)
        scores = {STATES: build.scored(rows, AnswerStates(components=32), adapter)}
        if self.looks != "early":
            scores[TRAINED] = build.scored(rows, LabelScores(sets=("train",)), adapter)
        if self.looks != TRAINED:
            scores |= {role: build.scored(rows, method) for role, method in self._early.methods().items()}
        return build.evaluated(build.trained(build.defended(rows, scores)), rows)

    def defend_train(self, view: DefenderView) -> Defended:
        self._early.require_success(view)
        confidences = _confidences(view)
        dropped: set[str] = set()
        seeds = 0
        for label in sorted({row.label for row in view.train}):
            rows = by_id(row for row in view.train if row.label == label)
            first = sorted(rows, key=lambda row: (-confidences[row.id], row.id))[: share(self.seeds, len(rows))]
            dropped |= self._spread(rows, {row.id for row in first}, view)
            seeds += len(first)
        return without(view.train, dropped, self.max_drop, {"seeds": seeds, "suspects": len(dropped)})

    @property
    def _early(self) -> Screening:
        return self.screening or Screening()

    def _spread(self, rows: list[Row], seeds: set[str], view: DefenderView) -> set[str]:
        """Ids of the suspects among the rows of a class (step 3)."""
        import numpy as np

        lines = view.scores[STATES]["train"]
        distances = _cosine_distances([lines[row.id]["coordinates"] for row in rows])
        nearest = np.sort(distances, axis=1)[:, 0] if len(rows) > 1 else np.zeros(len(rows))
        suspect = np.array([row.id in seeds for row in rows])
        usual = nearest[~suspect]
        while len(usual) and not suspect.all():
            to_suspects = distances[:, suspect].copy()
            to_suspects[suspect] = np.inf
            added = np.unique(np.argsort(to_suspects, axis=0, kind="stable")[: self.neighbours])
            added = added[np.isfinite(to_suspects[added]).any(1)]
            if not len(added) or np.median(to_suspects[added].min(1)) > usual.mean() + 2 * usual.std():
                break
            suspect[added] = True
        return {row.id for row, is_suspect in zip(rows, suspect, strict=True) if is_suspect}


def _confidences(view: DefenderView) -> dict[str, float]:
    """mu by row id: the mean of 1 / (1 - p) over the looks (step 1)."""
    values: dict[str, list[float]] = {}
    for role, scores in sorted(view.scores.items()):
        for id_, line in scores["train"].items() if role != STATES else ():
            values.setdefault(id_, []).append(_inverse(float(line["scores"][int(line["label"])])))
    return {id_: sum(of_row) / len(of_row) for id_, of_row in values.items()}


def _inverse(log_probability: float) -> float:
    """1 / (1 - p), at most `LARGEST`."""
    missing = -math.expm1(min(log_probability, 0.0))
    return LARGEST if missing * LARGEST <= 1 else 1 / missing


def _cosine_distances(points: list[list[float]]) -> "np.ndarray":
    """1 - cosine between all rows, [N, N], with infinity on the diagonal. A row without direction is far from all."""
    import numpy as np

    require_pairs(len(points))
    array = np.asarray(points, dtype=float)
    lengths = np.linalg.norm(array, axis=1, keepdims=True)
    unit = array / np.where(lengths > 0, lengths, 1.0)
    distances: np.ndarray = 1 - unit @ unit.T
    np.fill_diagonal(distances, np.inf)
    return distances
