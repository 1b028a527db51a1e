"""GradSentry (arXiv 2605.26574): drop the rows whose gradient has many directions.

1. Take the gradient of every training row's loss with respect to the output projection, before any training, and cut
   out its first eighth of rows and columns.
2. Compute the entropy of its normalised singular values.
3. Find the threshold: the valley between two peaks of the density of the entropies, else `threshold`.
4. Drop the rows above it and train on the others.

The number of singular values is the number of answer tokens, so the entropy grows with the length of an answer;
`correlation_with_length` in the manifest says how much of it is length. With one answer token it is 0 for every row:
refused for labels.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from p2p_dist.config.builder import Builder
from p2p_dist.config.graph import Stage
from p2p_dist.config.score_methods import AnswerGradients
from p2p_dist.config.study import Rate
from p2p_dist.data.defense import Assumptions, DataDefense, Defended, DefenderView
from p2p_dist.data.example import Kind, by_id
from p2p_dist.data.filtering import without

GRID = 1000
"""Points at which the density is computed."""
LEAST_ROWS, LEAST_APART, DEEPEST, LEAST_ABOVE, LEAST_SHARE = 30, 0.15, 0.8, 5, 0.01
"""A valley counts with so many rows, peaks so far apart, below this share of the lower peak, and with so many rows and
this share of the rows above it."""


class Gradsentry(DataDefense):
    """Drop the rows with a high entropy of singular values. Exact singular values (released code: randomised)."""

    kinds: ClassVar[tuple[Kind, ...]] = ("generation",)
    default_assumptions: ClassVar[Assumptions] = Assumptions(source="arXiv 2605.26574 and its released code")

    threshold: Rate = 0.7
    """Entropy above which a row is dropped where no valley is found (original: 0.7)."""
    whole: bool = False
    """Use the whole gradient in place of the block that the released code cuts out, which is the first eighth of the
    token ids and of the hidden numbers."""

    def stages(self, build: Builder, rows: Stage) -> Stage:
        gradients = build.scored(rows, AnswerGradients(components=32, block=8))
        return build.evaluated(build.trained(build.defended(rows, {"gradients": gradients})), rows)

    def defend_train(self, view: DefenderView) -> Defended:
        lines = view.scores["gradients"]["train"]
        rows = by_id(view.train)
        entropies = [float(lines[row.id]["entropy_whole" if self.whole else "entropy"]) for row in rows]
        valley_entropy = valley(entropies)
        threshold = self.threshold if valley_entropy is None else valley_entropy
        dropped = {row.id for row, entropy in zip(rows, entropies, strict=True) if entropy > threshold}
        counts: dict[str, Any] = {
            "threshold": round(threshold, 5),
            "valley_found": valley_entropy is not None,
            "correlation_with_length": _correlation(entropies, [math.log(lines[row.id]["tokens"]) for row in rows]),
        }
        return without(view.train, dropped, 1.0 - 1e-9, counts)


def valley(entropies: Sequence[float]) -> float | None:
    """Entropy of the lowest density between the peak nearest to 0 and the peak nearest to 1 (step 3); None where the
    released code's conditions are not met."""
    import numpy as np
    from scipy.signal import find_peaks

    values = np.asarray(entropies)
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    if len(values) < LEAST_ROWS or spread == 0:
        return None
    width = 1.06 * spread * len(values) ** -0.2
    grid = np.linspace(values.min(), values.max(), GRID)
    density = np.exp(-0.5 * ((grid[:, None] - values[None]) / width) ** 2).mean(1)
    padded = np.concatenate([[0.0], density, [0.0]])  # a peak at an end of the grid counts
    peaks = find_peaks(padded, prominence=0.01 * density.max())[0] - 1
    if len(peaks) < 2:
        return None
    low, high = int(grid[peaks].argmin()), int(grid[peaks].argmax())
    first, last = int(peaks[low]), int(peaks[high])
    lowest = first + int(density[first : last + 1].argmin())
    above = int((values > grid[lowest]).sum())
    apart = grid[last] - grid[first] >= LEAST_APART
    deep = density[lowest] < DEEPEST * min(density[first], density[last])
    return float(grid[lowest]) if apart and deep and above >= max(LEAST_ABOVE, LEAST_SHARE * len(values)) else None


def _correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Pearson correlation; None where one of the two is constant."""
    import numpy as np

    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return round(float(np.corrcoef(first, second)[0, 1]), 4)
