"""The benchmarks run, in seconds and at sizes that say nothing about speed, so that none rots; their rules are tested
here."""

import importlib
import json
import math
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import gpu
from bench.common import Figure, Gate, LeftOut, Stepwise, interleave, show, speedup, spread
from p2p_dist.config.model import resolve_model
from p2p_dist.scheduling.study import configs_dir

ROOT = Path(__file__).parents[1]


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


def dry_run(*options: str, **environment: str) -> list[dict[str, Any]]:
    """What `bench/gpu.sh --dry-run` prints."""
    command = [str(ROOT / "bench" / "gpu.sh"), "--dry-run", "--json", *options]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHON": sys.executable, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_every_benchmark_of_the_engine_runs_and_its_gates_hold() -> None:
    """At sizes that say nothing about speed: both sides compute the same, whatever the time, and nothing is left out
    here."""
    rows = dry_run()
    assert [row for row in rows if "why" in row] == []
    assert all(row["gates"] and row["holds"] and row["machine"]["smoke"] for row in rows)
    assert len({row["name"] for row in rows}) >= 6


def test_step_dispatches_fewer_operations_than_peft() -> None:
    """The one figure that is the same on every machine."""
    command = [sys.executable, "-m", "bench.operations", "--json", "--runs", "4", "--batch", "8"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    one, four = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    assert one["ratio"] > 1
    assert four["facts"]["ours"] < 1.05 * one["facts"]["ours"]


def test_the_gpu_benchmarks_need_no_pydantic(tmp_path: Path) -> None:
    (tmp_path / "pydantic.py").write_text("raise ImportError('not installed')\n")
    rows = dry_run("--only", "cohort", PYTHONPATH=str(tmp_path))
    assert len(rows) == 2
    assert all(row["holds"] for row in rows)


@pytest.mark.parametrize(
    ("name", "arguments"), gpu.plan(), ids=lambda part: part if isinstance(part, str) else " ".join(part)
)
def test_what_is_planned_for_a_gpu_can_be_asked_for(name: str, arguments: list[str]) -> None:
    options = importlib.import_module(f"bench.{name}").parse(arguments)
    if options.model != "dispatch":
        shape = resolve_model(options.model, configs_dir() / "models").shape
        assert shape is not None
        assert shape.architecture == "qwen3"


def test_on_a_machine_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert gpu.main([]) == 2
    assert "--dry-run" in capsys.readouterr().err


def test_the_benchmark_of_the_rows_runs_and_its_gates_hold() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.data_build", "--smoke", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(rows) == 2
    assert all(row["gates"] and row["holds"] and row["machine"]["smoke"] for row in rows)


def test_the_benchmark_of_evaluation_runs_and_its_gates_hold() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.evaluation", "--smoke", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["gates"][0]["value"] for row in rows] == [0, 0, 0]


def test_schedule_benchmark_runs_and_meets_its_goals() -> None:
    """Simulated, so its ratios are the same on every machine."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.schedule", "--smoke", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    small, large, look = (json.loads(line) for line in done.stdout.splitlines())
    assert (small["met"], large["met"]) == (True, True)
    assert small["ratio"] < small["facts"]["random order"]
    assert look["holds"]


def test_the_benchmark_of_the_plan_runs_and_its_gates_hold() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.plan", "--smoke", "--json"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["facts"]["runs"] for row in rows] == [80, 80]
    assert all(row["holds"] for row in rows)


def test_a_job_of_a_warm_worker_leaves_the_files_of_a_fresh_one() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.warm_worker", "--smoke", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ratio, seconds = (json.loads(line) for line in done.stdout.splitlines())
    assert ratio["facts"]["files"] == 6, "adapters and results of two jobs, and manifests"
    assert [gate["value"] for row in (ratio, seconds) for gate in row["gates"]] == [0, 0]
    assert ratio["ratio"] > 1, "imports alone take seconds"


def test_threads_that_wait_less_compute_the_same() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.shared_cores", "--smoke", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    beside, alone = (json.loads(line) for line in done.stdout.splitlines())
    assert beside["facts"]["files"] == 12, "adapters, results and manifests of four trainings"
    assert [gate["value"] for row in (beside, alone) for gate in row["gates"]] == [0, 0]


def test_the_benchmark_of_a_sweep_does_all_its_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.sweep", "--smoke", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    efficiency, gap = (json.loads(line) for line in done.stdout.splitlines())
    assert 0 < efficiency["ratio"] < efficiency["facts"]["efficiency over the jobs"] < 1
    assert efficiency["gates"][0]["value"] == 0
    assert efficiency["facts"]["gaps"] > 0
    assert gap["ratio"] > 0
