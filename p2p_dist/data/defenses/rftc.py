"""RFTC (EMNLP Findings 2025, arXiv 2505.23015): compare responses with a reference model's, cluster those that differ.

1. Let a reference model answer every training row: the run's own base as it is.
2. Cut a response at the ends of its sentences. Suspect the row if the bigram precision of any piece against the
   reference's answer is below `least_precision`.
3. Cluster the suspects by TF-IDF of text and response with k-means; choose k by an elbow.
4. Drop all clusters but the one with the largest mean distance to its centre: poisoned responses are alike.

With no suspects, or one cluster, all rows stay. All but one cluster is dropped even where no row is poisoned.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from p2p_dist.config.builder import Builder
from p2p_dist.config.graph import Stage
from p2p_dist.config.score_methods import FreeAnswers
from p2p_dist.data.clustering import k_means
from p2p_dist.data.defense import Assumptions, DataDefense, Defended, DefenderView
from p2p_dist.data.example import Kind, Row, by_id
from p2p_dist.data.filtering import without
from p2p_dist.errors import user_error

if TYPE_CHECKING:
    import numpy as np

MOST_CLUSTERS, FALLBACK = 10, 4
"""Largest k that is tried, and k where no elbow is found (released code)."""
MOST_NUMBERS = 200_000_000
"""Numbers of the TF-IDF table: 1.6 GB."""
_SENTENCE_END = re.compile(r"(?<=[.!?。！？])\s*")
_WORD = re.compile(r"\w\w+")


class Rftc(DataDefense):
    """Drop the dense clusters of the rows whose response a reference model would not give."""

    kinds: ClassVar[tuple[Kind, ...]] = ("generation",)
    default_assumptions: ClassVar[Assumptions] = Assumptions(
        source="arXiv 2505.23015 and its released code; the reference is the run's own base without training"
    )

    least_precision: Annotated[float, Field(gt=0, le=100)] = 10.0
    """Bigram precision in per cent below which a piece is suspicious (released code: 10)."""

    def stages(self, build: Builder, rows: Stage) -> Stage:
        defended = build.defended(rows, {"reference": build.scored(rows, FreeAnswers())})
        return build.evaluated(build.trained(defended), rows)

    def defend_train(self, view: DefenderView) -> Defended:
        lines = view.scores["reference"]["train"]
        suspects = by_id(
            row
            for row in view.train
            if worst_precision(row.response or "", str(lines[row.id]["answer"])) < self.least_precision
        )
        dropped, clusters = _dense_clusters(suspects, view.seed)
        return without(view.train, dropped, 1.0 - 1e-9, {"suspects": len(suspects), "clusters": clusters})


def worst_precision(response: str, reference: str) -> float:
    """Lowest bigram precision of the response's sentences against the reference, in per cent (step 2). A sentence of
    one word is judged by that word."""
    pieces = [piece.split() for piece in _SENTENCE_END.split(response.lower())]
    known = reference.lower().split()
    return min((_precision(words, known) for words in pieces if words), default=0.0)


def _precision(words: Sequence[str], reference: Sequence[str]) -> float:
    order = min(2, len(words))
    grams, known = (Counter(zip(*(text[i:] for i in range(order)), strict=False)) for text in (words, reference))
    return 100 * sum((grams & known).values()) / sum(grams.values())


def _dense_clusters(rows: Sequence[Row], seed: int) -> tuple[set[str], int]:
    """Ids of the suspects in all clusters but the loosest, and the number of clusters (steps 3 and 4)."""
    if len(rows) < 2:
        return set(), len(rows)
    points = tf_idf([f"{row.text} {row.response}" for row in rows])
    clusterings = {k: k_means(points, k, seed) for k in range(1, min(MOST_CLUSTERS, len(rows)) + 1)}
    k = elbow([sum(distance**2 for distance in distances) for _, distances in clusterings.values()])
    clusters, distances = clusterings[k]
    if k == 1:
        return set(), 1
    spreads = {
        cluster: sum(d for c, d in zip(clusters, distances, strict=True) if c == cluster) / clusters.count(cluster)
        for cluster in set(clusters)
    }
    loosest = max(spreads, key=lambda cluster: (spreads[cluster], -cluster))
    return {row.id for row, cluster in zip(rows, clusters, strict=True) if cluster != loosest}, len(spreads)


def tf_idf(texts: Sequence[str]) -> "np.ndarray":
    """Term frequency x (log((1 + n) / (1 + df)) + 1) of every word, rows of unit length (as scikit-learn's default):
    [texts, words]. Raises UserError E279 for more than `MOST_NUMBERS`."""
    import numpy as np

    counts = [Counter(_WORD.findall(text.lower())) for text in texts]
    rows_with = Counter(word for of_text in counts for word in of_text)
    if len(texts) * len(rows_with) > MOST_NUMBERS:
        what = f"{len(texts):,} suspicious rows with {len(rows_with):,} words are too many to cluster"
        raise user_error("E279", what, "rows.train", "lower rows.train, or exclude the defense")
    columns = {word: column for column, word in enumerate(sorted(rows_with))}
    points = np.zeros((len(texts), len(columns)))
    for of_text, point in zip(counts, points, strict=True):
        for word, count in of_text.items():
            point[columns[word]] = count * (math.log((1 + len(texts)) / (1 + rows_with[word])) + 1)
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    unit: np.ndarray = points / np.where(lengths > 0, lengths, 1.0)
    return unit


def elbow(losses: Sequence[float]) -> int:
    """k, given the losses of k = 1, 2, ...: the first at which more than 40 % of the total drop is reached and the next
    drop is at most 40 % of the first or of the last one; `FALLBACK` where there is none."""
    drops = [before - after for before, after in pairwise(losses)]
    total = losses[0] - losses[-1]
    for k in range(2, len(losses)):
        reached = losses[0] - losses[k - 1] > 0.4 * total
        if reached and (drops[k - 1] <= 0.4 * drops[0] or drops[k - 1] <= 0.4 * drops[k - 2]):
            return k
    return min(FALLBACK, len(losses))
