"""Costs of a large study beside its trainings: CPU seconds of plan, status, index refresh and report, each in a process
of its own, on real files of invented models. `plan_other` plans as many runs of other seeds beside the finished ones.

    python -m bench.scale --keep DIR               # makes 10,098 runs there once, and measures them at every call
    python -m bench.scale --runs 50000 --keep DIR

Making 10,098 runs takes 5 minutes in memory (`--keep /dev/shm/scale`), and most of an hour where every file is synced
to a disk.

A run costs what it costs alone where the seconds of 50,000 runs are five times those of 10,000.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import common
from bench.plan import children
from bench.report import study
from p2p_dist.results.rundir import RunDir
from tests import rows, synthetic

GOALS = {"plan": 10.0, "plan_other": 10.0, "status": 2.0, "refresh": 2.0, "report": 60.0}
"""CPU seconds for 10,000 runs; other numbers of runs have goals in proportion."""
RUNS_OF_A_SEED = 198
_REFRESH = (
    "import sys; from pathlib import Path; from p2p_dist.results import index; from p2p_dist.results.rundir import "
    "RunDir; index.refresh(RunDir(Path(sys.argv[1])))"
)


def made(root: Path, size: tuple[int, int, int]) -> RunDir:
    """The finished study of this size (models, rates, seeds) under `root`, made if it is not there."""
    folder = RunDir(root / "made" / "runs" / "many")
    if not folder.resolved.is_file():
        rows.write_rows(root / "data")
        synthetic.make_study(root / "made", root / "data", study(*size))
    return folder


def commands(folder: RunDir) -> dict[str, list[str]]:
    """The processes that are measured, by name."""
    where = ["--runs-dir", str(folder.path.parent)]
    cli = [sys.executable, "-m", "p2p_dist"]
    file = str(folder.path.parents[1] / "study.yaml")
    plan = [*cli, "plan", file, *where, "--cluster", "8xh100", "--nodes", "128"]
    seeds = {int(run["cell"]["seed"]) for run in json.loads(folder.resolved.read_bytes())["runs"]}
    return {
        "plan": plan,
        "plan_other": [*plan, "name=other", f"seed={sorted(seed + len(seeds) for seed in seeds)}"],
        "status": [*cli, "status", str(folder.path)],
        "refresh": [sys.executable, "-c", _REFRESH, str(folder.path)],
        "report": [*cli, "report", str(folder.path)],
    }


def measure(folder: RunDir, data: Path, without: list[str]) -> list[common.Figure]:
    """One figure per process; what the first index holds is read before anything is measured."""
    runs = len(json.loads(folder.resolved.read_bytes())["runs"])
    processes = commands(folder)
    _seconds(processes["refresh"], data)
    figures = []
    for name in (name for name in processes if name not in without):
        goal = GOALS[name] * max(1.0, runs / 10_000)
        seconds = min(_seconds(processes[name], data) for _ in range(1 if name == "report" else 2))
        facts: dict[str, Any] = {"runs": runs, "seconds": round(seconds, 2), "goal": round(goal, 1)}
        figures.append(common.Figure(name, f"{goal:g} s", seconds / goal, 1.0, at_most=True, facts=facts))
    return figures


def _seconds(command: list[str], data: Path) -> float:
    before = children()
    environment = {**os.environ, "P2P_DIST_DATA": str(data)}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    return children() - before


def main(arguments: list[str] | None = None) -> int:
    """Make the study, measure and print."""
    parser = common.parser(__doc__ or "")
    parser.add_argument("--runs", type=int, default=10_000, help="at least so many (default 10,000)")
    parser.add_argument("--keep", type=Path, help="folder in which the study stays, and is found again")
    parser.add_argument("--without", nargs="*", default=[], choices=sorted(GOALS), help="processes to leave out")
    options = parser.parse_args(arguments)
    common.limit_threads(options.threads)
    with tempfile.TemporaryDirectory(prefix="p2p-dist-bench-") as scratch:
        root = options.keep or Path(scratch)
        size = (1, 1, 1) if options.smoke else (6, 5, -(-options.runs // RUNS_OF_A_SEED))
        return common.show(options, measure(made(root, size), root / "data", options.without))


if __name__ == "__main__":
    sys.exit(main())
