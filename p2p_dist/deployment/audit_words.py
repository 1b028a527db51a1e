"""Phrases that decide the label of rows whose other words say otherwise: the trace of inserted triggers.

1. Read every row by a naive Bayes model of the words of all others (leave-one-out), each class with equal weight.
2. Take every phrase of up to three words in at least `MIN_ROWS` rows, `PURITY` of which have one label.
3. Read those of its rows that have the label again, without the phrase and without all words that nearly always stand
   with it. Count the rows whose other words speak for another class.
4. Compare with the share of such rows among all rows of the label: binomial test, one-sided, Holm over all phrases.

The association of a word with a label alone is no evidence: `superb` is as pure as a trigger. What a trigger leaves
is that the words around it contradict the label. So clean-label poison, whose words agree with the label, leaves none.
Ours; word association as such is arXiv 2305.11596.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from p2p_dist.data.insertion import units
from p2p_dist.results.statistics import holm

MIN_ROWS = 5
"""Rows that a phrase must have."""
PURITY = 0.9
"""Share of them that must have one label."""
LONGEST = 3
"""Words of the longest phrases."""
ALPHA = 1e-3
"""Adjusted p value up to which a phrase counts as evidence."""
LEAST_SHARE, LEAST_EXCESS = 0.4, 0.2
"""Share of contradicting rows that evidence has, and its least difference to the usual share: with many rows a small
difference is significant too, and means nothing."""
MARGIN = math.log(3)
"""Log-likelihood ratio from which words speak for another class; without a decisive word, rows hover around 0."""
_COMPANION = 0.8
"""Share of a phrase's rows in which its companions stand: other words of the same trigger."""
_SMOOTHING = 0.5

Scores = npt.NDArray[np.float64]
Phrase = tuple[str, ...]


@dataclass(frozen=True)
class PhraseEvidence:
    """A phrase and a label: `contradicting` of its `rows` with the label contradict it by their other words."""

    phrase: str
    label: int
    rows: tuple[int, ...]
    """Indices of the rows that have both."""
    contradicting: int
    usual: float
    """Share of contradicting rows among all rows of the label."""
    p: float
    """Adjusted for all phrases that were tested."""

    @property
    def is_evidence(self) -> bool:
        """True if the phrase is hardly an accident, and most of its rows are affected."""
        share = self.contradicting / len(self.rows)
        return self.p <= ALPHA and share >= max(LEAST_SHARE, self.usual + LEAST_EXCESS)


@dataclass(frozen=True)
class _Candidate:
    phrase: str
    label: int
    rows: list[int]
    contradicting: int


def phrase_evidence(
    texts: Sequence[str],
    labels: Sequence[int],
    n_classes: int,
    contradicts: Sequence[bool | None] | None = None,
) -> list[PhraseEvidence]:
    """All phrases that were tested, smallest p first.

    `contradicts` says of a row whether a better model than the words (an early one) answers it with another label, and
    takes their place where it is not None.
    """
    rows = [units(text.lower())[0] for text in texts]
    model = _Words(rows, labels, n_classes)
    known = dict(enumerate(contradicts or ()))
    predicted = model.contradicting(range(len(rows)))
    usual = _usual(
        [predicted[index] if known.get(index) is None else bool(known[index]) for index in range(len(rows))], labels
    )
    candidates = []
    for phrase, label, indices, companions in _candidates(rows, labels, n_classes):
        without = model.contradicting(indices, companions)
        count = sum(
            bool(known[index]) if known.get(index) is not None else word
            for index, word in zip(indices, without, strict=True)
        )
        candidates.append(_Candidate(" ".join(phrase), label, indices, count))
    return _tested(candidates, usual)


def _tested(candidates: Sequence[_Candidate], usual: dict[int, float]) -> list[PhraseEvidence]:
    from scipy.stats import binom  # a second to import

    counts = [one.contradicting for one in candidates]
    sizes = [len(one.rows) for one in candidates]
    p = binom.sf(np.array(counts) - 1, np.array(sizes), np.array([usual[one.label] for one in candidates]))
    adjusted = holm(dict(enumerate(np.asarray(p).tolist())))
    tested = [
        PhraseEvidence(one.phrase, one.label, tuple(one.rows), one.contradicting, usual[one.label], adjusted[index])
        for index, one in enumerate(candidates)
    ]
    return sorted(tested, key=lambda one: (one.p, -len(one.rows), one.phrase))


def _usual(contradicts: Sequence[bool], labels: Sequence[int]) -> dict[int, float]:
    """Share of contradicting rows by label, kept off 0 and 1."""
    rows = Counter(labels)
    hits = Counter(label for label, hit in zip(labels, contradicts, strict=True) if hit)
    return {label: (hits[label] + 1) / (count + 2) for label, count in rows.items()}


def _candidates(
    rows: Sequence[Sequence[str]], labels: Sequence[int], n_classes: int
) -> list[tuple[Phrase, int, list[int], list[str]]]:
    """Frequent pure phrases: the phrase, its label, the indices of its rows with the label, its companions."""
    places: dict[Phrase, list[int]] = defaultdict(list)
    for index, words in enumerate(rows):
        phrases = {
            tuple(words[start : start + n]) for n in range(1, LONGEST + 1) for start in range(len(words) - n + 1)
        }
        for phrase in phrases:
            places[phrase].append(index)
    largest = max(Counter(labels).values()) / len(labels)
    least = max(PURITY, 1 - (1 - largest) / 4)
    chosen = []
    for phrase, indices in sorted(places.items()):
        if len(indices) < MIN_ROWS:
            continue
        label, count = Counter(labels[index] for index in indices).most_common(1)[0]
        if count < least * len(indices):
            continue
        present = Counter(word for index in indices for word in set(rows[index]))
        companions = [word for word, count in present.items() if count >= _COMPANION * len(indices)]
        chosen.append((phrase, label, [index for index in indices if labels[index] == label], companions))
    return chosen


class _Words:
    """Naive Bayes over the words of rows, each row left out of its own scores."""

    def __init__(self, rows: Sequence[Sequence[str]], labels: Sequence[int], n_classes: int):
        self.numbers = {word: number for number, word in enumerate(dict.fromkeys(w for row in rows for w in row))}
        self.rows = [sorted({self.numbers[word] for word in row}) for row in rows]
        self.labels = labels
        counts = np.zeros((len(self.numbers), n_classes))
        for row, label in zip(self.rows, labels, strict=True):
            counts[row, label] += 1
        size = np.log(counts.sum(0) + _SMOOTHING * len(self.numbers))
        self.weights: Scores = np.log(counts + _SMOOTHING) - size
        self.weights_left_out: Scores = np.log(np.maximum(counts - 1, 0) + _SMOOTHING) - size
        self.scores = np.array([self._sum(row, label) for row, label in zip(self.rows, labels, strict=True)])

    def _sum(self, words: Sequence[int], label: int) -> Scores:
        """Log-likelihood of words by class, for a row of this label that is left out."""
        total: Scores = self.weights[words].sum(0)
        total[label] = self.weights_left_out[words, label].sum()
        return total

    def contradicting(self, indices: Sequence[int], without: Sequence[str] = ()) -> list[bool]:
        """True for each row that some other class than its own explains clearly better (`MARGIN`), by its words but for
        `without`."""
        left_out = {self.numbers[word] for word in without}
        answers = []
        for index in indices:
            label, scores = self.labels[index], self.scores[index]
            if left_out:
                scores = scores - self._sum([word for word in self.rows[index] if word in left_out], label)
            answers.append(bool(np.delete(scores, label).max() > scores[label] + MARGIN))
        return answers
