"""Intervals of rates over several seeds: seeds and test rows are both drawn, and every seed is asked the same rows.

Two-way random effects without replication (Satterthwaite 1946; Owen 2007 for crossed data): with S seeds, n rows, and
mean squares MS_s between seeds, MS_r between rows and MS_e of the rest, the mean has the variance
(MS_s + MS_r - MS_e) / (S n), never less than MS_s / (S n) or MS_r / (S n), and about
(MS_s + MS_r - MS_e)^2 / (MS_s^2 / (S-1) + MS_r^2 / (n-1) + MS_e^2 / ((S-1)(n-1))) degrees of freedom.

Where every seed has rows of its own (`rows.seed: study`), the spread of the seeds' means holds both kinds of chance.

A rate has Wilson's interval at the number of independent rows that has this variance; a difference has Student's. The
percentile interval of the crossed bootstrap covers less with so few seeds; docs/metrics.md has the coverage of both.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from p2p_dist.results.statistics import ALPHA, Difference

LEAST_VARIANCE = 1e-12
LEAST_SHARED = 0.9
"""Share of the rows that all seeds must have in common to count as the same rows; fewer are drawn for each seed."""


@dataclass(frozen=True)
class Mean:
    """A mean over S seeds of n rows, its variance over seeds and rows, and the degrees of freedom of that."""

    value: float
    variance: float
    freedom: float
    seeds: int
    rows: int

    @property
    def quantile(self) -> float:
        """Student's t for a two-sided 95 % interval."""
        from scipy.stats import t

        return float(t.ppf(1 - ALPHA / 2, self.freedom))


def rate_interval(hits: Sequence[Mapping[str, bool]]) -> Difference:
    """Mean rate over seeds and its interval; one outcome per row for every seed.

    Raises ValueError for fewer than two seeds or a seed without rows.
    """
    mean = _mean(hits)
    spread = mean.value * (1 - mean.value)
    most = mean.seeds * mean.rows
    independent = min(most, spread / mean.variance) if spread and mean.variance > LEAST_VARIANCE else mean.rows
    z2 = mean.quantile**2
    centre = (mean.value + z2 / (2 * independent)) / (1 + z2 / independent)
    margin = math.sqrt(z2 * spread / independent + (z2 / (2 * independent)) ** 2) / (1 + z2 / independent)
    return Difference(mean.value, max(0.0, centre - margin), min(1.0, centre + margin))


def difference_interval(first: Sequence[Mapping[str, bool]], second: Sequence[Mapping[str, bool]]) -> Difference:
    """Rate of `second` minus rate of `first`, paired by seed and row, and its interval.

    Both have one outcome per row for every seed, in the same order of seeds; rows that only one of the two answered are
    left out. Raises ValueError for fewer than two seeds or a seed without shared rows.
    """
    mean = _mean(_changes(first, second))
    margin = mean.quantile * math.sqrt(mean.variance)
    return Difference(mean.value, max(-1.0, mean.value - margin), min(1.0, mean.value + margin))


def p_value(first: Sequence[Mapping[str, bool]], second: Sequence[Mapping[str, bool]]) -> float:
    """Two-sided p of the difference of two rates over seeds and rows; 1 where no row differs.

    Raises ValueError as `difference_interval` does.
    """
    from scipy.stats import t

    mean = _mean(_changes(first, second))
    if mean.variance <= LEAST_VARIANCE:
        return 1.0 if mean.value == 0 else 0.0
    return float(2 * t.sf(abs(mean.value) / math.sqrt(mean.variance), mean.freedom))


def _mean(values: Sequence[Mapping[str, float]]) -> Mean:
    """Mean of one value per row for every seed: of crossed rows where (nearly) all rows are common to all seeds, else
    of rows that were drawn for each seed."""
    if not values or any(not rows for rows in values):
        raise ValueError("a seed has no rows")
    shared = sorted(set.intersection(*(set(rows) for rows in values)))
    if len(shared) >= LEAST_SHARED * max(len(rows) for rows in values):
        return crossed(np.array([[float(rows[id_]) for id_ in shared] for rows in values]))
    return nested([[float(value) for value in rows.values()] for rows in values])


def crossed(table: npt.NDArray[np.float64]) -> Mean:
    """Mean of values [S, n] of the same n rows for every seed. Raises ValueError for fewer than two seeds or rows."""
    seeds, rows = table.shape
    _require_two(seeds, rows)
    mean = float(table.mean())
    by_seed, by_row = table.mean(axis=1), table.mean(axis=0)
    rest = table - by_seed[:, None] - by_row[None, :] + mean
    seed = rows * float(np.square(by_seed - mean).sum()) / (seeds - 1)
    row = seeds * float(np.square(by_row - mean).sum()) / (rows - 1)
    error = float(np.square(rest).sum()) / ((seeds - 1) * (rows - 1))
    total = max(seed + row - error, seed, row)
    uncertainty = seed**2 / (seeds - 1) + row**2 / (rows - 1) + error**2 / ((seeds - 1) * (rows - 1))
    freedom = max(seed + row - error, 0.0) ** 2 / uncertainty if uncertainty else float(rows - 1)
    return Mean(mean, total / (seeds * rows), max(1.0, freedom), seeds, rows)


def nested(values: Sequence[Sequence[float]]) -> Mean:
    """Mean of seeds that have rows of their own: the spread of their means holds both kinds of chance. Its variance is
    never less than that of independent rows."""
    seeds, rows = len(values), min(len(of_seed) for of_seed in values)
    _require_two(seeds, rows)
    means = [float(np.mean(of_seed)) for of_seed in values]
    of_rows = float(np.mean([np.var(of_seed) / len(of_seed) for of_seed in values]))
    variance = max(float(np.var(means, ddof=1)), of_rows) / seeds
    return Mean(float(np.mean(means)), variance, float(seeds - 1), seeds, rows)


def _require_two(seeds: int, rows: int) -> None:
    if seeds < 2 or rows < 2:
        raise ValueError(f"{seeds} seeds of {rows} rows; an interval over seeds and rows needs two of both")


def _changes(first: Sequence[Mapping[str, bool]], second: Sequence[Mapping[str, bool]]) -> list[dict[str, float]]:
    """Change of every row that both answered, by seed. Raises ValueError for other numbers of seeds."""
    return [
        {id_: float(after[id_]) - float(before[id_]) for id_ in before.keys() & after.keys()}
        for before, after in zip(first, second, strict=True)
    ]
