"""Jobs of a study on the Slurm of the tests."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

from tests.slurm.machines import Machines, wait_for


def over(nodes: int, study: Path) -> tuple[str, ...]:
    """Options for a job over so many nodes of two cores."""
    return ("--nodes", str(nodes), "--cpus-per-node", "2", f"--run-option=--cluster={study.with_name(f'{nodes}.yaml')}")


def submit(cluster: Machines, study: Path, runs: Path, *options: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "p2p_dist", "submit", "slurm", str(study), "--runs-dir", str(runs), *options]
    return cluster.call(*line, seconds=120)


def number(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


def log(runs: Path) -> str:
    return "".join(path.read_text() for path in sorted(runs.rglob("slurm/*.out")))


def ended(cluster: Machines, job: str, runs: Path, seconds: float = 400) -> None:
    """Wait for the end, and show the job's own words when it is another."""
    with contextlib.suppress(TimeoutError):
        wait_for(lambda: set(cluster.states(job)) <= {"COMPLETED", "FAILED"}, seconds)
    assert set(cluster.states(job)) == {"COMPLETED"}, log(runs)[-4000:]


def await_start(runs: Path, job: str, start: int) -> None:
    """Wait until the controller counts this start of a job; it takes signals from before that."""

    def counted() -> bool:
        return any(json.loads(path.read_text())["number"] == start for path in runs.glob(f"*/starts/{job}-*.json"))

    with contextlib.suppress(TimeoutError):
        wait_for(counted, 120)
    assert counted(), log(runs)[-4000:]


def training(runs: Path) -> bool:
    return any(path.read_text().count("\n") > 3 for path in runs.rglob("train/*/metrics.jsonl"))


def codes(runs: Path) -> set[int]:
    return {json.loads(path.read_text())["code"] for path in runs.rglob("exit.json")}
