"""Compiled decoder layers (`train.compile`) against plain ones: time of a step, and what the start costs.

Both trainings take turns in one process. The gate is the losses. `start` is the CPU time of this process and its
compilers until the first step is done, without that of a plain first step; `--cold` begins with an empty cache of
compiled code, else that of the user serves.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

from bench.common import Figure, Gate, interleave, limit_threads, milliseconds, parser, show, speedup, spread
from bench.workload import clock_of, largest_difference, load, ours, settings, typical_batch, vocabulary
from p2p_dist.training.train_run import TrainRun

WARMUP = 2
PLAIN, COMPILED = "plain layers", "compiled layers"
LIMIT = {"float32": 1e-4, "bfloat16": 0.02}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this benchmark."""
    made = parser(__doc__ or "")
    made.add_argument("--model", default="dispatch", help="as in a study, or `dispatch`: 28 narrow layers")
    made.add_argument("--dtype", default="float32", choices=sorted(LIMIT))
    made.add_argument("--batch", type=int, default=4, help="rows per step")
    made.add_argument("--length", type=int, default=12, help="tokens per row; 0 for lengths like those of SST-2")
    made.add_argument("--runs", type=int, default=1, help="runs of the cohort")
    made.add_argument("--dropout", type=float, default=0.1)
    made.add_argument("--cold", action="store_true", help="begin with an empty cache of compiled code")
    made.set_defaults(repeats=15)
    options = made.parse_args(argv)
    if options.smoke:
        options.model, options.repeats = "smoke", 2
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    limit_threads(options.threads)
    with tempfile.TemporaryDirectory() if options.cold else nullcontext() as folder:
        if folder is not None:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        figures = [measure(options)]
    return show(options, figures, model=options.model, dtype=options.dtype, threads=options.threads)


def measure(options: argparse.Namespace) -> Figure:
    """A step with plain layers, divided by one with compiled layers."""
    base = load(options.model, options.dtype)
    spec = settings((WARMUP + options.repeats) * options.steps + 1, options.batch, options.dropout)
    rows = [typical_batch(options.batch, vocabulary(base), run, options.length) for run in range(options.runs)]
    plain = [TrainRun(spec, run, each) for run, each in enumerate(rows)]
    compiled = [replace(run, spec=spec.model_copy(update={"compile": "auto"})) for run in plain]
    sides, starts = {}, {}
    for name, runs in {PLAIN: plain, COMPILED: compiled}.items():
        before = os.times()
        sides[name] = ours(base, runs)
        sides[name].training.step()
        starts[name] = sum(os.times()[:4]) - sum(before[:4])
    times = interleave(
        {name: side.training.steps(options.steps) for name, side in sides.items()},
        options.repeats,
        WARMUP - 1,
        clock_of(base.device),
    )
    for side in sides.values():
        side.training.close()
    curve = sides[PLAIN].curve()
    apart = largest_difference(curve, sides[COMPILED].curve()) / curve[0]
    facts = {
        "runs": options.runs,
        "rows": options.batch,
        "tokens": sum(len(row.ids) for each in rows for row in each),
        "milliseconds": milliseconds(times),
        "start": f"{starts[COMPILED] - starts[PLAIN]:.1f} s with a{'n empty' if options.cold else ' used'} cache",
        "turn_by_turn": spread(times, PLAIN, COMPILED),
    }
    gate = Gate("largest difference of the losses, as a share of the first", apart, LIMIT[options.dtype])
    return Figure(
        f"a step with {COMPILED}", PLAIN, speedup(times, PLAIN, COMPILED), goal=1.05, gates=[gate], facts=facts
    )


if __name__ == "__main__":
    sys.exit(main())
