"""Time for 5,000 results: to build the index, to collect them, and to write a report with every table and picture.

The results are those of `tests/synthetic.py`: invented models, but files of the format, number and kind of real ones.
`python -m bench.report` in the project's root; making the study takes longer than what is measured.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import common
from p2p_dist.report import page
from p2p_dist.results import index
from p2p_dist.results.collect import Collected, read_study
from p2p_dist.results.rundir import RunDir
from tests import rows, synthetic

GOAL = 20.0
"""Seconds."""
STUDY = """
name: many
task: rotten_tomatoes
model: [{models}]
attack:
  - none
{attacks}
defense: [none, p2p, moddef]
seed: [{seeds}]
rows: {{train: 64, test: 20, reserve: 20}}
train: {{num_train_epochs: 1, global_batch: 16, dtype: float32, lora: {{r: 4}}}}
"""
MODELS = (
    "random:smollm2-135m-instruct",
    "random:qwen3-0.6b",
    "random:qwen3-1.7b",
    "random:qwen3-4b",
    "random:qwen3-8b",
    "random:qwen3-14b",
)
PICTURES = {"rates", "scaling", "sweep", "accuracy", "confidence", "labels", "schedule", "loss"}
RATES = (0.05, 0.1, 0.15, 0.2, 0.25)


def study(models: int, rates: int, seeds: int) -> str:
    """Two attacks at these many rates by three defenses. 5,160 results for 6 models, 5 rates and 20 seeds: clean models
    answer the triggered rows too."""
    attacks = "\n".join(
        f"  - {{name: {name}, rate: {rate}}}" for name in ("badnets", "addsent") for rate in RATES[:rates]
    )
    return STUDY.format(models=", ".join(MODELS[:models]), attacks=attacks, seeds=", ".join(map(str, range(seeds))))


def timed(work: Callable[[], Any], seconds: dict[str, list[float]], what: str) -> Any:
    """Do it once; CPU time and time on the wall go into `seconds`."""
    before = time.process_time(), time.perf_counter()
    outcome = work()
    seconds[what] = [round(time.process_time() - before[0], 2), round(time.perf_counter() - before[1], 2)]
    return outcome


def measure(folder: RunDir) -> common.Figure:
    """Index, collect and report, each once: nothing is warmed up, because nobody writes a report twice in one
    process."""
    seconds: dict[str, list[float]] = {}
    indexed: index.Index = timed(lambda: index.rebuild(folder), seconds, "index")
    collected: Collected = timed(lambda: read_study(folder, alive=False), seconds, "read")
    path: Path = timed(lambda: page.write_report(folder, collected, {}), seconds, "report")
    total = sum(cpu for cpu, _ in seconds.values())
    open_ = sum(run.status != "done" for run in collected.runs)
    results = indexed.table.filter([kind == "eval" for kind in indexed.table["kind"].to_pylist()]).num_rows
    gates = [
        common.Gate("results in the index or in the report alone", abs(results - len(collected.results)), 0.0),
        common.Gate("runs that are not done", open_, 0.0),
        common.Gate(
            "kinds of pictures missing",
            len(PICTURES - {path.stem.partition("_")[0] for path in (folder.report / "plots").glob("*.png")}),
            0.0,
        ),
    ]
    facts = {
        "results": results,
        "runs": len(collected.runs),
        "seconds (CPU, wall)": {
            **seconds,
            "all": [round(total, 2), round(sum(wall for _, wall in seconds.values()), 2)],
        },
        "page MB": round(path.stat().st_size / 1e6, 1),
        "pictures": len(list((folder.report / "plots").glob("*.svg"))),
        "tables": len(list((folder.report / "tables").glob("*.csv"))),
    }
    return common.Figure(
        "index and report", f"{GOAL:.0f} seconds", total / GOAL, 1.0, at_most=True, gates=gates, facts=facts
    )


def main(arguments: list[str] | None = None) -> int:
    """Make the study, measure and print."""
    options = common.parser(__doc__ or "").parse_args(arguments)
    common.limit_threads(options.threads)
    root = Path(tempfile.mkdtemp(prefix="p2p-dist-bench-"))
    try:
        rows.write_rows(root / "data")
        size = (2, 3, 1) if options.smoke else (6, 5, 20)
        return common.show(options, [measure(synthetic.make_study(root / "made", root / "data", study(*size)))])
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    sys.exit(main())
