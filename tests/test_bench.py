"""The benchmarks run, in seconds and at sizes that say nothing about speed, so that none rots."""

import importlib
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch

from bench import sweep
from p2p_dist.scheduling.process_groups import SPIN
from tests import in_process
from tests.in_process import InProcessSlot

ROOT = Path(__file__).parents[1]
Figures = list[dict[str, Any]]
SMOKE = ("--smoke", "--json")


def lines_of(output: str) -> Figures:
    """Figures among the lines of an output."""
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Figures]:
    """Run a benchmark in this process, with workers that are none; a warning is no error, as in a process."""
    monkeypatch.setattr("bench.studies.WorkerSlot", InProcessSlot)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def run(name: str, *arguments: str) -> Figures:
        threads = torch.get_num_threads()
        with patch.dict(os.environ), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code = importlib.import_module(f"bench.{name}").main(arguments)
        torch.set_num_threads(threads)
        output = capsys.readouterr()
        assert code == 0, output.out + output.err
        return lines_of(output.out)

    return run


def started(*command: str, **environment: str) -> Figures:
    """What a command prints."""
    variables = {**os.environ, "PYTHON": sys.executable, **environment}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return lines_of(done.stdout)


def started_benchmark(name: str) -> Figures:
    """What `python -m bench.NAME` prints."""
    return started(sys.executable, "-m", f"bench.{name}", *SMOKE)


def test_every_benchmark_of_the_engine_runs_and_its_gates_hold(here: Callable[..., Figures]) -> None:
    """At sizes that say nothing about speed: both sides compute the same, whatever the time, and nothing is left out
    but what a GPU alone can do."""
    rows = here("gpu", "--dry-run", "--json")
    left_out = [row["why"] for row in rows if "why" in row]
    assert left_out == ([] if torch.cuda.is_available() else ["needs a GPU"])
    rows = [row for row in rows if "why" not in row]
    assert all(row["gates"] and row["holds"] and row["machine"]["smoke"] for row in rows)
    assert len({row["name"] for row in rows}) >= 6


def test_step_dispatches_fewer_operations_than_peft(here: Callable[..., Figures]) -> None:
    """The one figure that is the same on every machine."""
    one, four = here("operations", "--json", "--runs", "4", "--batch", "8")
    assert one["ratio"] > 1
    assert four["facts"]["ours"] < 1.05 * one["facts"]["ours"]


def test_the_gpu_benchmarks_need_no_pydantic(tmp_path: Path) -> None:
    """`bench/gpu.sh`, started as on a machine that has torch and little else."""
    (tmp_path / "pydantic.py").write_text("raise ImportError('not installed')\n")
    script = (str(ROOT / "bench" / "gpu.sh"), "--dry-run", "--json", "--only", "cohort")
    rows = started(*script, PYTHONPATH=str(tmp_path))
    assert len(rows) == 2
    assert all(row["holds"] for row in rows)


def test_the_benchmark_of_the_rows_runs_and_its_gates_hold(here: Callable[..., Figures]) -> None:
    rows = here("data_build", *SMOKE)
    assert len(rows) == 2
    assert all(row["gates"] and row["holds"] and row["machine"]["smoke"] for row in rows)


@pytest.mark.slow("compiles; tests/training/test_compiled.py holds the same gate")
def test_the_benchmark_of_compiled_layers_holds_its_gate(here: Callable[..., Figures]) -> None:
    (row,) = here("compile", *SMOKE)
    assert row["gates"]
    assert row["holds"]


def test_the_benchmark_of_evaluation_runs_and_its_gates_hold(here: Callable[..., Figures]) -> None:
    assert [row["gates"][0]["value"] for row in here("evaluation", *SMOKE)] == [0, 0, 0]


def test_schedule_benchmark_runs_and_meets_its_goals(here: Callable[..., Figures]) -> None:
    """Simulated, so its ratios are the same on every machine."""
    small, large, look = here("schedule", *SMOKE)
    assert (small["met"], large["met"]) == (True, True)
    assert small["ratio"] < small["facts"]["random order"]
    assert look["holds"]


def test_the_benchmark_of_a_large_cluster_accounts_for_all_time(here: Callable[..., Figures]) -> None:
    quiet, *troubled = here("large_cluster", *SMOKE)
    assert all(row["holds"] for row in (quiet, *troubled))
    assert quiet["facts"]["goodput"] == 1.0
    assert troubled[-1]["facts"]["hours"] > quiet["facts"]["hours"]


@pytest.mark.slow("simulates 10,080 runs six times")
def test_docs_have_the_figures_of_a_large_cluster(here: Callable[..., Figures]) -> None:
    """They are simulated, so they are the same on every machine."""
    text = (ROOT / "docs" / "planning.md").read_text()
    for row in here("large_cluster", "--json"):
        facts = row["facts"]
        alone = f"{100 * facts['training and evaluating alone']:.1f} %"
        assert f"| {row['name']} | {facts['hours']:.2f} | {alone} | " in text


def test_the_benchmark_of_the_plan_runs_and_its_gates_hold(here: Callable[..., Figures]) -> None:
    rows = here("plan", *SMOKE)
    assert [row["facts"]["runs"] for row in rows] == [80, 80]
    assert all(row["holds"] for row in rows)


@pytest.mark.slow("starts six processes of the command line")
def test_scale_benchmark_measures_every_process(here: Callable[..., Figures]) -> None:
    assert [row["name"] for row in here("scale", *SMOKE)] == ["plan", "plan_other", "status", "refresh", "report"]


def assert_same_jobs(rows: Figures, files: int) -> None:
    assert rows[0]["facts"]["files"] == files, "adapters, results and manifests"
    assert [gate["value"] for row in rows for gate in row["gates"]] == [0, 0]


def test_a_job_of_a_warm_worker_leaves_the_files_of_a_fresh_one(here: Callable[..., Figures]) -> None:
    """Two jobs on each side."""
    assert_same_jobs(here("warm_worker", *SMOKE), 6)


@pytest.mark.slow("starts torch three times, which is what it measures; that it runs is a fast test")
def test_warm_worker_takes_less_than_a_process() -> None:
    """Imports alone take seconds."""
    rows = started_benchmark("warm_worker")
    assert_same_jobs(rows, 6)
    assert rows[0]["ratio"] > 1


def test_shared_cores_benchmark_runs_and_its_gates_hold(here: Callable[..., Figures]) -> None:
    """Four trainings on each side, of one thread."""
    assert_same_jobs(here("shared_cores", "--threads", "1", *SMOKE), 12)


@pytest.mark.slow("threads that spin beside a busy program on every core; what they compute is a fast test")
def test_threads_that_wait_less_train_the_same() -> None:
    """Whole trainings with both settings."""
    assert_same_jobs(started_benchmark("shared_cores"), 12)


@pytest.mark.slow("starts torch three times; that --slots trains the same is a test of warm workers")
def test_slots_benchmark_trains_the_same_on_both_sides() -> None:
    (row,) = started_benchmark("slots")
    assert row["holds"]
    assert [gate["value"] for gate in row["gates"]] == [pytest.approx(0, abs=1e-3)]


def test_threads_that_wait_less_compute_the_same() -> None:
    """Forward and backward of products in two threads, with and without GOMP_SPINCOUNT."""
    work = (
        "import hashlib, torch; torch.manual_seed(0); torch.set_num_threads(2); "
        "a = torch.randn(16, 512, 257, requires_grad=True); (a @ a.mT).softmax(-1).square().sum().backward(); "
        "print(hashlib.sha256(a.grad.numpy().tobytes()).hexdigest())"
    )
    hashes = set()
    for setting in ({}, {"GOMP_SPINCOUNT": SPIN}):
        inherited = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
        done = subprocess.run(
            [sys.executable, "-c", work], env={**inherited, **setting}, capture_output=True, text=True, check=True
        )
        hashes.add(done.stdout)
    assert len(hashes) == 1


def assert_sweep(rows: Figures) -> None:
    efficiency, gap = rows
    assert 0 < efficiency["ratio"] < efficiency["facts"]["efficiency over the jobs"] < 1
    assert efficiency["gates"][0]["value"] == 0
    assert efficiency["facts"]["gaps"] > 0
    assert gap["ratio"] > 0


def test_gaps_of_a_sweep_are_between_jobs_of_a_slot() -> None:
    """Two slots, four jobs: the third takes the first slot after 1 s, the fourth the second after 2 s."""
    starts_and_ends = [(0.0, 10.0), (0.0, 12.0), (11.0, 20.0), (14.0, 30.0)]
    assert sweep._gaps([{"start": start, "end": end} for start, end in starts_and_ends]) == [1.0, 2.0]


def test_sweep_benchmark_does_all_its_runs(here: Callable[..., Figures], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a controller in this process, which does one job after the other; so the times between jobs are set."""

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        verb, study, _, runs, *options = command[3:]
        return in_process.cli(Path(study), Path(runs), *options, verb=verb)

    monkeypatch.setattr(sweep, "subprocess", SimpleNamespace(run=run))
    monkeypatch.setattr(sweep, "_gaps", lambda jobs: [1e-3] * len(jobs))
    assert_sweep(here("sweep", *SMOKE))


@pytest.mark.slow("a study of 15 jobs in processes; the same in one process is the fast witness")
def test_sweep_benchmark_with_processes() -> None:
    """As a user starts it."""
    assert_sweep(started_benchmark("sweep"))
