"""Intervals, means and tests of rates (reference: Wilson 1927, McNemar 1947, Holm 1979, Newcombe 1998, Owen 2007).

Pure functions of numbers. scipy and statsmodels do the computing, except for the crossed bootstrap, which neither has.
All intervals are at 95 %.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np

from p2p_dist.data.example import stream

ALPHA = 0.05
POWER = 0.8
RESAMPLES = 2000

Key = TypeVar("Key")


@dataclass(frozen=True)
class Interval:
    """A rate, k of n rows, with its 95 % Wilson interval."""

    k: int
    n: int
    low: float
    high: float

    @property
    def rate(self) -> float:
        return self.k / self.n


@dataclass(frozen=True)
class Spread:
    """A rate over seeds: mean, standard deviation (n - 1; None for one seed), and number of seeds."""

    mean: float
    sd: float | None
    seeds: int


@dataclass(frozen=True)
class Paired:
    """Two models on the same n rows: the number of rows on which only the first, and only the second, is a hit."""

    n: int
    only_first: int
    only_second: int
    p: float
    """Exact McNemar test, two-sided."""

    @property
    def difference(self) -> float:
        """Rate of the second minus rate of the first."""
        return (self.only_second - self.only_first) / self.n


@dataclass(frozen=True)
class Difference:
    """A difference of two rates, with its 95 % interval."""

    value: float
    low: float
    high: float


@lru_cache(maxsize=1 << 16)
def wilson(k: int, n: int) -> Interval:
    """Wilson score interval at 95 % (Wilson 1927). Raises ValueError for n = 0."""
    if n == 0:
        raise ValueError("a rate over no rows has no interval")
    from scipy.stats import binomtest

    bounds = binomtest(k, n).proportion_ci(confidence_level=1 - ALPHA, method="wilson")
    return Interval(k, n, float(bounds.low), float(bounds.high))


def wilson_bounds(k: Sequence[int], n: Sequence[int]) -> tuple[list[float], list[float]]:
    """Lower and upper bounds of `wilson` for many rates at once."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(np.asarray(k), np.asarray(n), alpha=ALPHA, method="wilson")
    return np.asarray(low).tolist(), np.asarray(high).tolist()


def over_seeds(rates: Sequence[float]) -> Spread:
    """Mean and standard deviation over seeds. Raises ValueError for no rates."""
    if not rates:
        raise ValueError("no rates to average")
    return Spread(float(np.mean(rates)), float(np.std(rates, ddof=1)) if len(rates) > 1 else None, len(rates))


def mcnemar(first: Mapping[str, bool], second: Mapping[str, bool]) -> Paired:
    """Exact McNemar test of two models over the rows that both answered, matched by id (McNemar 1947). Raises
    ValueError when they share none."""
    from statsmodels.stats.contingency_tables import mcnemar as test

    shared = first.keys() & second.keys()
    if not shared:
        raise ValueError("the two models share no rows")
    table = np.zeros((2, 2), dtype=int)
    for id_ in shared:
        table[int(first[id_]), int(second[id_])] += 1
    return Paired(len(shared), int(table[1, 0]), int(table[0, 1]), float(test(table, exact=True).pvalue))


def bootstrap_difference(
    first: Sequence[Mapping[str, bool]], second: Sequence[Mapping[str, bool]], name: str
) -> Difference:
    """Rate of `second` minus rate of `first`, paired by seed and row, with a percentile interval of the crossed
    bootstrap: seeds and rows are both resampled with replacement (Owen 2007).

    Each sequence has one outcome per row for every seed, in the same order of seeds; rows that are not answered in all
    of them are left out. `name` names the stream of random numbers. Raises ValueError when no row is shared.
    """
    shared = sorted(set.intersection(*({*rows} for rows in (*first, *second))))
    if not shared or len(first) != len(second):
        raise ValueError("nothing to pair")
    change = np.array(
        [
            [float(after[id_]) - float(before[id_]) for id_ in shared]
            for before, after in zip(first, second, strict=True)
        ]
    )
    seeds, rows = change.shape
    random = np.random.default_rng(stream(0, "bootstrap", name).getrandbits(64))
    by_seed = random.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) @ change / seeds
    by_row = random.multinomial(rows, np.full(rows, 1 / rows), RESAMPLES) / rows
    low, high = np.quantile((by_seed * by_row).sum(axis=1), [ALPHA / 2, 1 - ALPHA / 2])
    return Difference(float(change.mean()), float(low), float(high))


def net(asr: Interval, floor: Interval) -> Difference:
    """Net attack success: ASR minus the clean-model baseline, signed and not clipped, with Newcombe's interval for two
    independent rates (Newcombe 1998)."""
    from statsmodels.stats.proportion import confint_proportions_2indep

    low, high = confint_proportions_2indep(asr.k, asr.n, floor.k, floor.n, method="newcomb", alpha=ALPHA)
    return Difference(asr.rate - floor.rate, float(low), float(high))


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Holm-adjusted p values of one table: the family-wise error rate stays at 5 % (Holm 1979)."""
    from statsmodels.stats.multitest import multipletests

    adjusted = multipletests(list(p_values.values()), alpha=ALPHA, method="holm")[1] if p_values else []
    return {key: float(p) for key, p in zip(p_values, adjusted, strict=True)}


def worst_case(rates: Mapping[Key, float]) -> tuple[Key, float]:
    """The attack variant with the highest success against a defense, and that success. Raises ValueError for none."""
    return max(rates.items(), key=lambda item: item[1])


def detectable(spread: Spread) -> float | None:
    """Minimum detectable difference between two means over this many seeds: paired t test, 5 % level, power 0.8, if
    differences vary as the rate does. None when the spread is unknown."""
    from statsmodels.stats.power import TTestPower

    if not spread.sd:
        return None
    return float(TTestPower().solve_power(nobs=spread.seeds, alpha=ALPHA, power=POWER)) * spread.sd


def power_note(spread: Spread) -> str:
    """One sentence on the statistical power of so few seeds; empty from five seeds on."""
    if spread.seeds >= 5:
        return ""
    if spread.seeds == 1:
        return (
            "One seed: how much the numbers vary with the seed is not known; three seeds are the least, five are "
            "better."
        )
    smallest = detectable(spread)
    if spread.sd is None or smallest is None:
        return f"{spread.seeds} seeds that agree to the row say little about how much seeds vary; five are better."
    return (
        f"{spread.seeds} seeds with a standard deviation of {100 * spread.sd:.1f} points: differences below "
        f"{100 * smallest:.1f} points would often be missed."
    )
