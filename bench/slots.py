"""Training steps per second of two workers side by side on half of the cores each, against one worker on all cores.

`p2p-dist run --slots 2` has two runs of a study train at once. The baseline trains them one after the other, with all
cores in one process. Both sides take the same number of steps in a turn, and the time is that of the clock, so measure
on a machine with nothing beside it. The gate is the loss curve: other numbers of threads may differ in the last bits.
`python -m bench.slots`.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence

from bench.common import Figure, Gate, interleave, limit_threads, parser, show, speedup
from p2p_dist.scheduling.process_groups import SPIN

GOAL = 1.2
WARMUP = 1
CURVE = 1e-3
"""Limit of the difference between loss curves, in nats."""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this benchmark; `--threads` is the number of cores to use."""
    made = parser(__doc__ or "")
    made.set_defaults(threads=max(2, os.cpu_count() or 2), steps=2)
    made.add_argument("--model", default="smollm2-135m-instruct", help="as in a study, or `dispatch`: 28 narrow layers")
    made.add_argument("--batch", type=int, default=16, help="rows per step")
    made.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = made.parse_args(argv)
    if options.smoke:
        options.model, options.batch, options.repeats = "smoke", 4, 2
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    if options.worker:
        return work(options)
    return show(options, [measure(options)], model=options.model, threads=options.threads)


def measure(options: argparse.Namespace) -> Figure:
    """Seconds of as many steps of two runs, side by side and one after the other."""
    two = [_Worker(options.threads // 2, options) for _ in range(2)]
    one = _Worker(options.threads, options)

    def side_by_side() -> None:
        for worker in two:
            worker.begin(options.steps)
        for worker in two:
            worker.end()

    def one_after_the_other() -> None:
        one.begin(2 * options.steps)
        one.end()

    cases = {"side by side": side_by_side, "one after the other": one_after_the_other}
    try:
        times = interleave(cases, options.repeats, WARMUP, time.perf_counter)
    finally:
        for worker in (*two, one):
            worker.close()
    curve = one.losses[: len(one.losses) // 2]
    apart = max(abs(a - b) for worker in two for a, b in zip(worker.losses, curve, strict=True))
    ratio = speedup(times, "one after the other", "side by side")
    facts = {f"{name}, seconds": round(min(seconds), 2) for name, seconds in times.items()}
    return Figure(
        f"two workers on {options.threads // 2} core(s) each",
        f"one worker on {options.threads} cores, one run after the other",
        ratio,
        GOAL,
        gates=[Gate("largest difference of losses, nats", apart, CURVE)],
        facts={"steps of each run in a turn": options.steps, "rows": options.batch, **facts},
    )


class _Worker:
    """A process that trains a number of steps when it is told to."""

    def __init__(self, threads: int, options: argparse.Namespace):
        command = ["--worker", "--threads", str(threads), "--model", options.model, "--batch", str(options.batch)]
        steps = str(2 * options.steps * (WARMUP + options.repeats) + 1)
        environment = {**os.environ, "GOMP_SPINCOUNT": SPIN, "MKL_DYNAMIC": "FALSE", "MKL_CBWR": "AUTO"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.slots", *command, "--steps", steps],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**environment, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)},
        )
        self.losses: list[float] = []
        self.end()

    def begin(self, steps: int) -> None:
        assert self.process.stdin is not None
        print(steps, file=self.process.stdin, flush=True)

    def end(self) -> None:
        """Wait for the steps, and keep their losses."""
        assert self.process.stdout is not None
        self.losses += json.loads(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def work(options: argparse.Namespace) -> int:
    """Train as many steps as each line of the input says, and print their losses. The first line printed is empty."""
    limit_threads(options.threads)
    from bench.workload import load, ours, settings, typical_batch, vocabulary
    from p2p_dist.training.train_run import TrainRun

    base = load(options.model, "float32")
    spec = settings(options.steps, options.batch, dropout=0.1)
    side = ours(base, [TrainRun(spec, 0, typical_batch(options.batch, vocabulary(base)))])
    print("[]", flush=True)
    for line in sys.stdin:
        side.training.steps(int(line))()
        print(json.dumps(side.curve()[-int(line) :]), flush=True)
    side.training.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
