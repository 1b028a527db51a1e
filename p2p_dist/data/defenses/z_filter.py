"""Z-filter: drop the rows of words that go with one label (Z-defence, He et al. 2023, arXiv 2305.11596).

1. Count, for every word w and label l, the training rows that have both.
2. Compute z(w, l) = (p(l | w) - p0) / sqrt(p0 (1 - p0) / n(w)), with n(w) the number of rows that have w.
3. Call a pair (w, l) suspicious: `pure`: n(w) >= min_rows, p(l | w) >= purity and z >= min_z.
4. Drop every row that has a suspicious word and its label, unless a class would lose more than `max_drop` of its rows.

The rule `pure` is ours. `released` is the rule of the released code: words are counted with repetitions, p0 = 1 /
number of labels, and z lies more than 20 standard deviations above the mean of all z. No model is asked and nothing is
drawn. Natural words that are as pure as a trigger are suspicious too: on topic tasks a quarter of the clean rows may
go.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, pstdev
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from p2p_dist.config.study import Positive, Rate
from p2p_dist.data.defense import Assumptions, DataDefense, Defended, DefenderView
from p2p_dist.data.example import Row, by_id

LISTED = 50
"""Suspicious pairs that the manifest lists, largest z first."""
RELEASED_DEVIATIONS = 20
"""Standard deviations above the mean from which the released code suspects a pair."""


class Association(NamedTuple):
    """A word, a label, and the strength of their association."""

    word: str
    label: int
    z: float
    purity: float
    """p(l | w), the share of the word's rows that have the label."""
    rows: int
    """n(w), rows that have the word (`released`: its occurrences)."""


class ZFilter(DataDefense):
    """Drop the rows whose label goes with a single word, by a word count without a model."""

    default_assumptions: ClassVar[Assumptions] = Assumptions(
        source="arXiv 2305.11596; the rule `pure` (purity and least count) is ours, `released` is the released code's"
    )

    rule: Literal["pure", "released"] = "pure"
    """pure: frequent words that have almost always one label. released: the z-score alone, as in the released code; its
    constant fits 20 % of poisoned rows and drops nothing at 2 %."""
    min_rows: Annotated[int, Field(ge=1)] = 10
    """pure: rows that must have the word."""
    purity: Rate = 0.99
    """pure: share of the word's rows that must have the label."""
    min_z: Positive = 5.0
    """pure: least z of a suspicious pair."""
    max_drop: Rate = 0.5
    """Share of a class that may be dropped; a class that would lose more keeps all its rows, and the manifest says
    so."""

    def defend_train(self, view: DefenderView) -> Defended:
        associations = self._associations(view.train, view.n_classes)  # steps 1 and 2
        suspicious = self._suspicious(associations)  # step 3
        hit = [row for row in view.train if any((word, row.label) in suspicious for word in set(words_of(row)))]
        given_up = self._given_up(view.train, hit)
        dropped = {row.id for row in hit if row.label not in given_up}  # step 4
        train = by_id(row for row in view.train if row.id not in dropped)
        counts = {
            "kept": len(train),
            "dropped": len(dropped),
            "clean_rows_used": 0,
            "suspicious_words": len(suspicious),
            "strongest_words": [_record(suspicious[key]) for key in list(suspicious)[:LISTED]],
            "classes_given_up": sorted(given_up),
        }
        return Defended(train, [], counts, frozenset(row.id for row in train))

    def _associations(self, rows: Sequence[Row], n_classes: int) -> list[Association]:
        """Every word with every label that it stands with."""
        if self.rule == "released":
            labels = {row.label for row in rows}
            return associations(rows, dict.fromkeys(labels, 1 / n_classes), repetitions=True)
        class_sizes = Counter(row.label for row in rows)
        return associations(rows, {label: size / len(rows) for label, size in class_sizes.items()})

    def _suspicious(self, pairs: Sequence[Association]) -> dict[tuple[str, int], Association]:
        """The suspicious pairs by word and label, largest z first."""
        if self.rule == "released":
            values = [pair.z for pair in pairs]
            threshold = fmean(values) + RELEASED_DEVIATIONS * pstdev(values) if values else math.inf
            suspects = [pair for pair in pairs if pair.z > threshold]
        else:
            suspects = [
                pair
                for pair in pairs
                if pair.rows >= self.min_rows and pair.purity >= self.purity and pair.z >= self.min_z
            ]
        return {(pair.word, pair.label): pair for pair in sorted(suspects, key=lambda pair: (-pair.z, pair.word))}

    def _given_up(self, rows: Iterable[Row], hit: Iterable[Row]) -> set[int]:
        """Labels that would lose more than `max_drop` of their rows."""
        sizes = Counter(row.label for row in rows)
        losses = Counter(row.label for row in hit)
        return {label for label, loss in losses.items() if loss > self.max_drop * sizes[label]}


def words_of(row: Row) -> list[str]:
    """Lower-cased words of a row's text, as a prompt has it (with the prefix, without cue and answer)."""
    return (row.prefix + row.text).lower().split()


def associations(rows: Sequence[Row], base_rates: Mapping[int, float], repetitions: bool = False) -> list[Association]:
    """Association of every word with every label that it stands with (steps 1 and 2).

    `base_rates` is p0 by label. A word counts once per row, or with `repetitions` as often as it occurs. Labels with
    p0 = 1 are left out: there is nothing to tell apart.
    """
    with_label: Counter[tuple[str, int]] = Counter()
    totals: Counter[str] = Counter()
    for row in rows:
        words = words_of(row)
        for word in words if repetitions else set(words):
            with_label[word, row.label] += 1
            totals[word] += 1
    return [
        Association(word, label, _z(count, totals[word], base_rates[label]), count / totals[word], totals[word])
        for (word, label), count in with_label.items()
        if base_rates[label] < 1
    ]


def _z(count: int, total: int, base_rate: float) -> float:
    """z-score of `count` of `total` rows against the share `base_rate`."""
    return (count / total - base_rate) / math.sqrt(base_rate * (1 - base_rate) / total)


def _record(pair: Association) -> dict[str, Any]:
    return {"word": pair.word, "label": pair.label, "z": round(pair.z, 2), "rows": pair.rows}
