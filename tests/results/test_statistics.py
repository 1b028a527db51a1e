"""Intervals against published and hand-computed values."""

import pytest

from p2p_dist.results.statistics import wilson


@pytest.mark.parametrize(
    ("k", "n", "low", "high"), [(55, 912, 4.66, 7.77), (3, 912, 0.11, 0.96), (58, 294, 15.6, 24.7), (0, 750, 0.0, 0.51), (1743, 1821, 94.7, 96.6)]
)
def test_wilson(k: int, n: int, low: float, high: float) -> None:
    found = wilson(k, n)
    assert (100 * found.low, 100 * found.high) == (pytest.approx(low, abs=0.06), pytest.approx(high, abs=0.06))
    assert found.rate == k / n


def test_no_rows_no_rate() -> None:
    with pytest.raises(ValueError, match="no rows"):
        wilson(0, 0)
