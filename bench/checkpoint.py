"""Cost of checkpoints: share of a training's time at one checkpoint every 50 steps.

A real training with a real run folder saves after every step, so that there are many saves to take the fastest of; the
ratio is 50 steps with one save over 50 steps without. Wall time, because a save waits for the disk. The gate: the last
checkpoint is found, verifies, and equals the state that was saved, to the bit.
"""

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.common import Figure, Gate, limit_threads, parser, show
from bench.workload import load, settings, typical_batch, vocabulary
from p2p_dist.modeling.lora import Adapters
from p2p_dist.results.rundir import StageDir
from p2p_dist.training import checkpoint
from p2p_dist.training.checkpoint import RunState
from p2p_dist.training.cohort import train_cohort
from p2p_dist.training.observer import FolderObserver, StopFlag
from p2p_dist.training.train_run import TrainRun

EVERY = 50
GOALS = {"cpu": 1.02, "cuda": 1.01}
FINGERPRINT = {"benchmark": "checkpoint"}
WARMUP = 2


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this benchmark."""
    made = parser(__doc__ or "")
    made.add_argument("--model", default="smollm2-135m-instruct", help="as in a study, or `dispatch`: 28 narrow layers")
    made.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    made.add_argument("--batch", type=int, default=32, help="rows per step")
    made.add_argument("--folder", help="where to save (default: the folder for temporary files)")
    options = made.parse_args(argv)
    if options.smoke:
        options.model, options.batch, options.repeats = "smoke", 4, 2
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    limit_threads(options.threads)
    return show(options, [measure(options)], model=options.model, dtype=options.dtype, threads=options.threads)


class Timed(FolderObserver):
    """A worker's observer that saves after every step and notes how long steps and saves took."""

    def __init__(self, target: StageDir):
        super().__init__([target], [FINGERPRINT], 1, StopFlag())
        self.saves: list[float] = []
        self.steps: list[float] = []
        self.last: RunState | None = None
        self.since = time.perf_counter()

    def line(self, run: int, line: dict[str, Any]) -> None:
        self.steps.append(time.perf_counter() - self.since)
        super().line(run, line)

    def keep(self, run: int, state: RunState) -> None:
        started = time.perf_counter()
        super().keep(run, state)
        self.since = time.perf_counter()
        self.saves.append(self.since - started)
        self.last = replace(
            state,
            values=state.values.clone(),
            first_moment=state.first_moment.clone(),
            second_moment=state.second_moment.clone(),
        )


def measure(options: argparse.Namespace) -> Figure:
    """50 steps and a save, divided by 50 steps."""
    base = load(options.model, options.dtype)
    run = TrainRun(
        settings(WARMUP + options.repeats + 1, options.batch), 0, typical_batch(options.batch, vocabulary(base))
    )
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        target = StageDir(Path(folder) / "train", "train")
        target.path.mkdir()
        timed = Timed(target)
        train_cohort(base, Adapters(base.model, run.spec.lora, 1), [run], timed)
        newest = checkpoint.newest(target.checkpoints, FINGERPRINT)
        written = sum(file.stat().st_size for file in next(target.checkpoints.iterdir()).iterdir())
    step, save = min(timed.steps[WARMUP:]), min(timed.saves[WARMUP:])
    gate = Gate("numbers of the newest checkpoint that are not the state's", _differing(newest.state, timed.last), 0)
    facts = {
        "step_ms": round(step * 1e3, 1),
        "save_ms": round(save * 1e3, 1),
        "slowest_save_ms": round(max(timed.saves[WARMUP:]) * 1e3, 1),
    }
    more = {"stall": f"{save / (EVERY * step):.2%}", "mib": round(written / 2**20, 1)}
    return Figure(
        "50 steps and a checkpoint",
        "50 steps",
        1 + save / (EVERY * step),
        GOALS[base.device.type],
        True,
        [gate],
        {**facts, **more},
    )


def _differing(newest: RunState | None, expected: RunState | None) -> float:
    if newest is None or expected is None or newest.counters != expected.counters:
        return math.nan
    pairs = (
        (newest.values, expected.values),
        (newest.first_moment, expected.first_moment),
        (newest.second_moment, expected.second_moment),
    )
    return float(sum(int((left != right.cpu()).sum()) for left, right in pairs))


if __name__ == "__main__":
    sys.exit(main())
