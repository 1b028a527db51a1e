"""Longest first: how long a study takes on how many devices."""

from random import Random

import pytest

from p2p_dist.planning.durations import makespan

STEPS = (470, 1880, 6314)
SECONDS = (0.055, 0.055, 0.068, 0.070, 0.095)
"""Per step for 0.6, 1.7, 4, 8 and 14 billion parameters, as assumed for an H200."""


def jobs(count: int) -> list[tuple[float, int]]:
    random = Random(0)
    return [(25 + random.choice(STEPS) * random.choice(SECONDS), 1) for _ in range(count)]


@pytest.mark.parametrize(("count", "slots", "most"), [(30, 8, 1.07), (2250, 8, 1.01), (2250, 32, 1.01), (2250, 128, 1.01)])
def test_longest_first_is_near_the_bound(count: int, slots: int, most: float) -> None:
    steps = [(25 + 6314 * seconds, 1) for seconds in SECONDS for _ in range(count // 5)] if count == 30 else jobs(count)
    found = makespan(steps, max(1, slots // 8), min(slots, 8))
    assert found.bound <= found.seconds <= most * found.bound


def test_gangs_take_whole_nodes_and_wait_for_all_of_them() -> None:
    assert makespan([(10.0, 8), (10.0, 8)], 2, 4).seconds == 20
    assert makespan([(10.0, 4), (10.0, 4)], 2, 4).seconds == 10
    assert makespan([(10.0, 2)] * 4, 1, 4).seconds == 20
    assert makespan([(10.0, 3), (4.0, 1), (4.0, 1)], 1, 4).seconds == 10
    assert makespan([(10.0, 3), (4.0, 1), (4.0, 1)], 1, 4).device_seconds == 38


def test_nothing_to_do_takes_no_time() -> None:
    assert makespan([], 1, 1).seconds == 0
