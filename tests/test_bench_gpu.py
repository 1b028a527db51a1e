"""What `bench/gpu.sh` runs on a GPU: its list, its table, and its end."""

import importlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest
import torch

from bench import gpu
from bench.common import Figure, Gate, Stepwise
from bench.workload import rows_of_run, settings
from p2p_dist.config.model import resolve_model
from p2p_dist.scheduling.study import configs_dir
from p2p_dist.training.train_run import TrainRun

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("name", "arguments"), gpu.plan(), ids=lambda part: part if isinstance(part, str) else " ".join(part)
)
def test_what_is_planned_for_a_gpu_can_be_asked_for(name: str, arguments: list[str]) -> None:
    options = importlib.import_module(f"bench.{name}").parse(arguments)
    if options.model != "dispatch":
        shape = resolve_model(options.model, configs_dir() / "models").shape
        assert shape is not None
        assert shape.architecture == "qwen3"


def test_gpu_table_names_goals_and_broken_gates() -> None:
    figures = [
        Figure("speed", "before", 1.234, 2.0),
        Figure("tax", "loop", 1.0, 1.1, at_most=True, gates=[Gate("difference", 2.0, 1.0)]),
    ]
    assert gpu._table(figures).splitlines()[3:] == [
        "| speed | before | 1.23 | >= 2 | missed |",
        "| tax | loop | 1 | <= 1.1 | met, not comparable: a gate does not hold |",
    ]


ENDS = """
import sys, time, types
from bench import common, gpu
blocked, broken, fine = (types.ModuleType(f"bench.{name}") for name in ("blocked", "broken", "fine"))
blocked.main = lambda arguments: time.sleep(60)
def failing(arguments): raise AssertionError("no such thing")
broken.main = failing
fine.main = lambda arguments: common.SHOWN.append(common.Figure("speed", "before", 2.0, 1.0)) or 0
sys.modules.update({module.__name__: module for module in (blocked, broken, fine)})
gpu.LAST_MINUTES = 0
gpu._chosen = lambda options: [(name, []) for name in ("broken", "fine", "blocked")]
sys.exit(gpu.main(["--dry-run", "--minutes", "0.05"]))
"""


def test_gpu_benchmarks_end_in_time_with_their_table() -> None:
    """Although one of them fails and another one hangs."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", ENDS], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "AssertionError: no such thing" in done.stderr
    assert "| speed | before | 2 | >= 1 | met |" in done.stdout
    assert "the last benchmark was given up" in done.stdout


def test_a_benchmark_apart_hands_over_its_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = list[Figure]()
    monkeypatch.setattr(gpu.common, "SHOWN", shown)
    assert gpu._run("operations", ["--smoke"], None) is True
    here = [figure.name for figure in shown]
    monkeypatch.setattr(gpu, "APART", ("operations", "no_such"))
    assert gpu._run("operations", ["--smoke"], None) is True
    assert [figure.name for figure in shown] == [*here, *here]
    assert here
    assert gpu._run("no_such", [], None) is False


def test_a_benchmark_that_fails_leaves_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its threads would keep models on the device."""
    threads = threading.active_count()

    def failing(arguments: list[str]) -> int:
        Stepwise(lambda tick: tick()).step()
        raise RuntimeError("out of memory")

    broken = ModuleType("bench.broken")
    broken.main = failing  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bench.broken", broken)
    assert gpu._run("broken", [], None) is False
    assert threading.active_count() == threads


def test_batches_that_take_turns_have_other_widths() -> None:
    widths = set()
    batches = rows_of_run(8, 256, 0, 0, 4)
    run = TrainRun(settings(8, 8, batches=4), 0, batches)
    for picked in run.schedule.batches():
        widths.add(sum(len(batches[at].ids) for at in picked))
    assert (len(batches), run.schedule.steps) == (32, 8)
    assert len(widths) > 4


def test_on_a_machine_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert gpu.main([]) == 2
    assert "--dry-run" in capsys.readouterr().err
