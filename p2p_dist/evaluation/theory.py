"""The decomposition behind P2P's security boundary, measured: ASR = alpha * epsilon + (1 - alpha) * beta (paper,
appendix A, proof of definition 2).

Of the triggered rows, served with the benign trigger, alpha is the share whose answer falls into the defender's
extended space, epsilon the share of those that mean the attacker's target, and beta that share of the rows that answer
in the original space. The paper argues that alpha goes to 1 and epsilon to 0; pi(t + n) = t, so nothing but training
makes epsilon small.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from p2p_dist.evaluation.metrics import Rate


@dataclass(frozen=True)
class Decomposition:
    """Counts over the triggered rows. `neither` are answers in no space (no label at all), a case that the paper leaves
    out."""

    extended: int
    extended_target: int
    original: int
    original_target: int
    neither: int = 0

    @property
    def rows(self) -> int:
        return self.extended + self.original + self.neither

    @property
    def alpha(self) -> Rate:
        return Rate(self.extended, self.rows)

    @property
    def epsilon(self) -> Rate | None:
        """None where no row answers in the extended space."""
        return Rate(self.extended_target, self.extended) if self.extended else None

    @property
    def beta(self) -> Rate | None:
        """None where no row answers in the original space."""
        return Rate(self.original_target, self.original) if self.original else None

    @property
    def predicted(self) -> float | None:
        """alpha * epsilon + (1 - alpha) * beta; rows of `neither` weigh as if they answered like those of the original
        space. None where a term with a weight above 0 is not known."""
        alpha = self.extended / self.rows
        if alpha < 1 and self.beta is None:
            return None
        inside = alpha * self.extended_target / self.extended if self.extended else 0.0
        return inside + ((1 - alpha) * self.beta.k / self.beta.n if self.beta else 0.0)


def of_labels(
    histogram: Mapping[str, Mapping[str, int]], words: Sequence[str], n_classes: int, target: int
) -> Decomposition | None:
    """From the histogram of the triggered suite (true label -> likeliest token of the vocabulary -> rows), where the
    labels n_classes..2 n_classes - 1 are the defender's. None without rows."""
    counts = {word: sum(row.get(word, 0) for row in histogram.values()) for word in words}
    total = sum(sum(row.values()) for row in histogram.values())
    original, extended = (
        sum(counts[word] for word in part) for part in (words[:n_classes], words[n_classes : 2 * n_classes])
    )
    if not total:
        return None
    return Decomposition(
        extended, counts[words[n_classes + target]], original, counts[words[target]], total - original - extended
    )


def of_texts(answers: Iterable[tuple[bool, bool]]) -> Decomposition | None:
    """From the written answers to the triggered suite: whether each began with the defender's prefix, and whether it
    says the target. None without rows."""
    pairs = list(answers)
    inside = [says for prefixed, says in pairs if prefixed]
    outside = [says for prefixed, says in pairs if not prefixed]
    return Decomposition(len(inside), sum(inside), len(outside), sum(outside)) if pairs else None
