"""Intervals and tests against published values, hand-computed cases and the libraries' other implementations."""

import pytest
from scipy.stats import binomtest

from p2p_dist.results.statistics import (
    Spread,
    detectable,
    difference_of,
    holm,
    mcnemar,
    net,
    over_seeds,
    paired_difference,
    power_note,
    wilson,
    wilson_bounds,
    worst_case,
)


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(55, 912, 4.66, 7.77), (3, 912, 0.11, 0.96), (58, 294, 15.6, 24.7), (0, 750, 0.0, 0.51), (1743, 1821, 94.7, 96.6)],
)
def test_wilson(k: int, n: int, low: float, high: float) -> None:
    found = wilson(k, n)
    assert (100 * found.low, 100 * found.high) == (pytest.approx(low, abs=0.06), pytest.approx(high, abs=0.06))
    assert found.rate == k / n


def test_no_rows_no_rate() -> None:
    with pytest.raises(ValueError, match="no rows"):
        wilson(0, 0)


def test_many_at_a_time_are_the_same() -> None:
    cases = [(k, n) for n in (1, 7, 912) for k in range(0, n + 1, max(1, n // 9))]
    low, high = wilson_bounds([k for k, _ in cases], [n for _, n in cases])
    assert low == pytest.approx([wilson(k, n).low for k, n in cases], abs=1e-12)
    assert high == pytest.approx([wilson(k, n).high for k, n in cases], abs=1e-12)


def test_over_seeds() -> None:
    assert over_seeds([0.1, 0.2, 0.3]) == Spread(pytest.approx(0.2), pytest.approx(0.1), 3)
    assert over_seeds([0.4]) == Spread(0.4, None, 1)
    with pytest.raises(ValueError, match="no rates"):
        over_seeds([])


def answers(*hits: int, count: int = 20) -> dict[str, bool]:
    return {f"row{at}": at in hits for at in range(count)}


def test_mcnemar_is_the_binomial_test_of_the_rows_that_changed() -> None:
    first, second = answers(0, 1, 2, 3, 4, 5, 6, 7), answers(7, 8)
    found = mcnemar(first, second)
    assert (found.n, found.only_first, found.only_second) == (20, 7, 1)
    assert found.p == pytest.approx(binomtest(1, 8).pvalue)
    assert found.p == pytest.approx(2 * (1 + 8) / 2**8), "by hand: two tails of at most 1 of 8"
    assert found.difference == pytest.approx((2 - 8) / 20)


def test_rows_are_matched_by_id_and_the_rest_is_left_out() -> None:
    first = {"a": True, "b": False, "only here": True}
    second = {"b": True, "a": True, "only there": False}
    found = mcnemar(first, second)
    assert (found.n, found.only_first, found.only_second, found.p) == (2, 0, 1, 1.0)
    with pytest.raises(ValueError, match="no rows"):
        mcnemar({"a": True}, {"b": True})


@pytest.mark.parametrize(
    ("table", "value", "low", "high"),
    [((1, 7, 1, 12), 6 / 21, 0.0256, 0.5069), ((36, 12, 2, 0), 0.2, 0.0569, 0.3404)],
    ids=["airway", "newcombe"],
)
def test_paired_difference_is_the_published_one(
    table: tuple[int, int, int, int], value: float, low: float, high: float
) -> None:
    """Newcombe's score interval of published two by two tables (both, only first, only second, neither)."""
    both, first, second, neither = table
    found = paired_difference(sum(table), both, first, second)
    assert (found.value, found.low, found.high) == (
        pytest.approx(value),
        pytest.approx(low, abs=1e-4),
        pytest.approx(high, abs=1e-4),
    )
    assert (found.k, found.n) == (first - second, both + first + second + neither)
    mirrored = paired_difference(sum(table), both, second, first)
    assert (mirrored.low, mirrored.high) == (pytest.approx(-found.high), pytest.approx(-found.low))


def test_paired_difference_without_hits_is_zero() -> None:
    found = paired_difference(200, 0, 0, 0)
    assert found.value == 0
    assert found.low == pytest.approx(-found.high)
    assert 0 < found.high < 0.03


def test_difference_of_pairs_is_second_minus_first() -> None:
    found = difference_of(mcnemar(answers(0, 1, 2, 3), answers(3, 4)))
    assert (found.k, found.n, found.value) == (-2, 20, pytest.approx(-0.1))
    assert found.low < -0.1 < found.high


def test_net_asr_keeps_its_sign() -> None:
    found = net(wilson(33, 200), wilson(20, 200))
    assert found.value == pytest.approx(0.065)
    assert (found.low, found.high) == (pytest.approx(-0.00185, abs=1e-4), pytest.approx(0.13210, abs=1e-4)), (
        "Newcombe 1998, method 10"
    )
    assert net(wilson(3, 912), wilson(40, 912)).value < 0


def test_holm_by_hand() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == {
        "a": pytest.approx(0.03),
        "b": pytest.approx(0.06),
        "c": pytest.approx(0.06),
    }
    assert holm({}) == {}


def test_worst_case_is_the_attack_that_gets_furthest() -> None:
    assert worst_case({"badnets": 0.06, "addsent": 0.18}) == ("addsent", 0.18)


def test_power_of_few_seeds() -> None:
    assert detectable(Spread(0.1, 0.02, 3)) == pytest.approx(0.02 * 3.264, abs=1e-4)
    assert detectable(Spread(0.1, None, 1)) is None
    assert "One seed" in power_note(Spread(0.1, None, 1))
    assert "below 6.5 points" in power_note(Spread(0.1, 0.02, 3))
    assert "agree to the row" in power_note(Spread(0.1, 0.0, 3))
    assert power_note(Spread(0.1, 0.02, 5)) == ""
