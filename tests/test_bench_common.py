"""Rules of all benchmarks: turns, ratios, gates, and trainings that are held after every step."""

import json
import math
from argparse import Namespace
from collections.abc import Callable

import pytest

from bench.common import Figure, Gate, LeftOut, Stepwise, interleave, show, speedup, spread


def test_interleaved_turns_go_both_ways_without_warm_up() -> None:
    """Turns are taken in both directions and warm up is not timed."""
    calls: list[str] = []
    ticks = iter(range(1000))
    times = interleave(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=2, warmup=1, clock=lambda: next(ticks)
    )
    assert calls == ["b", "a", "a", "b", "b", "a"]
    assert times == {"a": [1, 1], "b": [1, 1]}


def test_a_ratio_is_of_the_fastest_turns() -> None:
    times = {"before": [9.0, 4.0, 8.0], "after": [2.0, 4.0, 4.0]}
    assert speedup(times, "before", "after") == 2.0
    assert spread(times, "before", "after") == {"low": 1.0, "median": 2.0, "high": 4.5}


@pytest.mark.parametrize(("value", "holds"), [(0.5, True), (1.0, True), (1.1, False), (math.nan, False)])
def test_a_gate_decides_the_exit_code_and_a_missed_goal_does_not(
    value: float, holds: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        Figure("speed", "before", 1.2, 1.5, gates=[Gate("difference", value, 1.0)]),
        LeftOut("other", "not installed"),
    ]
    assert show(Namespace(json=True, smoke=False), rows) == (0 if holds else 1)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (lines[0]["met"], lines[0]["holds"], lines[1]["why"]) == (False, holds, "not installed")
    show(Namespace(json=False, smoke=False), rows)
    said = capsys.readouterr().out
    assert "MISSED" in said
    assert ("DOES NOT HOLD" in said) != holds


def test_a_training_is_held_after_every_step() -> None:
    done: list[int] = []

    def work(tick: Callable[[], None]) -> None:
        for at in range(3):
            done.append(at)
            tick()

    side = Stepwise(work)
    assert done == []
    side.step()
    side.step()
    assert done == [0, 1]
    side.close()
    assert done == [0, 1]
    other = Stepwise(work)
    for _ in range(3):
        other.step()
    with pytest.raises(RuntimeError, match="over"):
        other.step()


def test_what_a_training_raises_reaches_the_benchmark() -> None:
    def work(tick: Callable[[], None]) -> None:
        tick()
        raise ValueError("no more memory")

    side = Stepwise(work)
    side.step()
    with pytest.raises(ValueError, match="no more memory"):
        side.step()
