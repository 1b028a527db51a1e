"""The benchmarks run, in seconds and at sizes that say nothing about speed, so that none rots; their rules are tested here."""

import json
import math
from argparse import Namespace

import pytest

from bench.common import Figure, Gate, LeftOut, interleave, show, speedup, spread


def test_turns_are_taken_in_both_directions_and_warm_up_is_not_timed() -> None:
    calls: list[str] = []
    ticks = iter(range(1000))
    times = interleave({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=2, warmup=1, clock=lambda: next(ticks))
    assert calls == ["b", "a", "a", "b", "b", "a"]
    assert times == {"a": [1, 1], "b": [1, 1]}


def test_a_ratio_is_of_the_fastest_turns() -> None:
    times = {"before": [9.0, 4.0, 8.0], "after": [2.0, 4.0, 4.0]}
    assert speedup(times, "before", "after") == 2.0
    assert spread(times, "before", "after") == {"low": 1.0, "median": 2.0, "high": 4.5}


@pytest.mark.parametrize(("value", "holds"), [(0.5, True), (1.0, True), (1.1, False), (math.nan, False)])
def test_a_gate_decides_the_exit_code_and_a_missed_goal_does_not(value: float, holds: bool, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Figure("speed", "before", 1.2, 1.5, gates=[Gate("difference", value, 1.0)]), LeftOut("other", "not installed")]
    assert show(Namespace(json=True, smoke=False), rows) == (0 if holds else 1)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (lines[0]["met"], lines[0]["holds"], lines[1]["why"]) == (False, holds, "not installed")
    show(Namespace(json=False, smoke=False), rows)
    said = capsys.readouterr().out
    assert "MISSED" in said
    assert ("DOES NOT HOLD" in said) != holds
