"""Intervals and tests against published values, hand-computed cases and the libraries' other implementations."""

from random import Random

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap

from p2p_dist.results.statistics import (
    Spread,
    bootstrap_difference,
    detectable,
    holm,
    mcnemar,
    net,
    over_seeds,
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


def test_bootstrap_of_one_seed_is_that_of_scipy() -> None:
    random = Random(1)
    first = {f"row{at}": random.random() < 0.6 for at in range(300)}
    second = {id_: hit and random.random() < 0.5 for id_, hit in first.items()}
    ours = bootstrap_difference([first], [second], "test")
    change = np.array([float(second[id_]) - float(first[id_]) for id_ in first])
    theirs = bootstrap(
        (change,), np.mean, method="percentile", n_resamples=5000, rng=np.random.default_rng(0)
    ).confidence_interval
    assert ours.value == pytest.approx(change.mean())
    assert (ours.low, ours.high) == (pytest.approx(theirs.low, abs=0.01), pytest.approx(theirs.high, abs=0.01))
    assert bootstrap_difference([first], [second], "test") == ours, "a named stream: the same twice"


def test_seeds_that_disagree_widen_the_interval() -> None:
    before = [answers(*range(20), count=200)] * 3
    same = bootstrap_difference(before, [answers(*range(10), count=200)] * 3, "same")
    apart = bootstrap_difference(before, [answers(*range(hits), count=200) for hits in (20, 10, 0)], "apart")
    assert same.value == pytest.approx(-0.05)
    assert apart.value == pytest.approx(-0.05)
    assert apart.high - apart.low > 1.3 * (same.high - same.low)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """200 studies of 4 seeds and 150 rows whose true difference is -0.2 by construction."""
    covered = 0
    random = np.random.default_rng(5)
    for study in range(200):
        first = [{str(at): bool(hit) for at, hit in enumerate(random.random(150) < 0.5)} for _ in range(4)]
        second = [{str(at): bool(hit) for at, hit in enumerate(random.random(150) < 0.3)} for _ in range(4)]
        found = bootstrap_difference(first, second, str(study))
        covered += found.low <= -0.2 <= found.high
    assert covered >= 184, "at least 92 % (it is on the wide side: rows and seeds are both resampled)"


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
