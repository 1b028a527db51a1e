"""Intervals and means of rates. Pure; every number keeps its count."""

from dataclasses import dataclass

from scipy.stats import binomtest


@dataclass(frozen=True)
class Interval:
    """A share of k in n rows with its 95 % Wilson interval."""

    k: int
    n: int
    low: float
    high: float

    @property
    def rate(self) -> float:
        return self.k / self.n


def wilson(k: int, n: int) -> Interval:
    """Wilson score interval at 95 % (Wilson 1927). Raises ValueError for n = 0."""
    if n == 0:
        raise ValueError("a rate over no rows has no interval")
    found = binomtest(k, n).proportion_ci(confidence_level=0.95, method="wilson")
    return Interval(k, n, float(found.low), float(found.high))
