"""Intervals, means and tests of rates (reference: Wilson 1927, McNemar 1947, Holm 1979, Newcombe 1998).

Pure functions of numbers; intervals over seeds and rows are in `crossed`. All intervals are at 95 %.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np

ALPHA = 0.05
POWER = 0.8

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
    both: int
    """Rows that are hits of both."""
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


@dataclass(frozen=True)
class Excess(Difference):
    """A difference of two rates on the same n rows; k is the difference of their hits."""

    k: int
    n: int

    @property
    def rate(self) -> float:
        return self.value


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
    return Paired(
        len(shared), int(table[1, 0]), int(table[0, 1]), int(table[1, 1]), float(test(table, exact=True).pvalue)
    )


def paired_difference(n: int, both: int, only_first: int, only_second: int) -> Excess:
    """Rate of the first minus rate of the second on the same n rows, with Newcombe's score interval for paired rates
    (Newcombe 1998, Statistics in Medicine 17:2635, method 10).

    `both`, `only_first` and `only_second` count the rows that are hits of both and of one alone. Raises ValueError for
    n = 0.
    """
    first, second = wilson(both + only_first, n), wilson(both + only_second, n)
    correlation = _correlation(both, only_first, only_second, n - both - only_first - only_second)

    def width(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one * one - 2 * correlation * one * other + other * other))

    value = first.rate - second.rate
    low = value - width(first.rate - first.low, second.high - second.rate)
    high = value + width(first.high - first.rate, second.rate - second.low)
    return Excess(value, max(-1.0, low), min(1.0, high), only_first - only_second, n)


def difference_of(paired: Paired) -> Excess:
    """Rate of the second model minus rate of the first, with Newcombe's interval."""
    return paired_difference(paired.n, paired.both, paired.only_second, paired.only_first)


def _correlation(a: int, b: int, c: int, d: int) -> float:
    """Phi of a two by two table with Newcombe's continuity correction; 0 where a margin is empty."""
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    if not margins:
        return 0.0
    determinant = float(a * d - b * c)
    if determinant > 0:
        determinant = max(0.0, determinant - (a + b + c + d) / 2)
    return determinant / math.sqrt(margins)


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
