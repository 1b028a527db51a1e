"""Training passes on a GPU: rows attended in groups, by variable-length attention, and repeated as CUDA graphs.

All sides train on the same eight batches, whose lengths differ. The gates are the losses: those of repeated passes have
to be the bits of plain ones.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from bench.common import Figure, Gate, LeftOut, interleave, limit_threads, milliseconds, parser, show, speedup, spread
from bench.workload import clock_of, largest_difference, load, ours, rows, settings, vocabulary
from p2p_dist.modeling import varlen_attention
from p2p_dist.training.engine import Execution
from p2p_dist.training.train_run import TrainRun

BATCHES = 8
WARMUP_STEPS = 4 * BATCHES
"""Every batch may have a form of its own, which three of its passes prove."""
GROUPS, VARLEN, GRAPHS = "rows in groups", "variable-length attention", "CUDA graphs"
LIMIT = {"float32": 1e-4, "bfloat16": 0.05}
"""Of the difference between losses of two kernels, in nats."""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this benchmark."""
    made = parser(__doc__ or "")
    made.add_argument("--model", default="random:qwen3-0.6b", help="as in a study, or `dispatch`: 28 narrow layers")
    made.add_argument("--dtype", default="bfloat16", choices=sorted(LIMIT))
    made.add_argument("--batch", type=int, default=32, help="rows per step")
    options = made.parse_args(argv)
    if options.smoke:
        options.model, options.batch, options.repeats = "smoke", 4, 2
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    limit_threads(options.threads)
    return show(options, measure(options), model=options.model, dtype=options.dtype, threads=options.threads)


def measure(options: argparse.Namespace) -> list[Figure | LeftOut]:
    """Two figures; none where there is no GPU."""
    if not has_gpu():
        return [LeftOut("training passes on a GPU", "needs a GPU")]
    base = load(options.model, options.dtype)
    warmup = -(-WARMUP_STEPS // options.steps)
    epochs = -(-(warmup + options.repeats) * options.steps // BATCHES) + 1
    run = TrainRun(settings(epochs, options.batch, 0.1), 0, rows(BATCHES * options.batch, vocabulary(base), 0))
    sides = {name: ours(base, [run], Execution(cuda_graphs=name == GRAPHS)) for name in (GROUPS, VARLEN, GRAPHS)}
    sides[GROUPS].training.within = rows_in_groups
    turns = {name: side.training.steps(options.steps) for name, side in sides.items()}
    times = interleave(turns, options.repeats, warmup, clock_of(base.device))
    for side in sides.values():
        side.training.close()
    curves = {name: side.curve() for name, side in sides.items()}
    facts = {"rows": options.batch, "milliseconds": milliseconds(times)}
    compared = ((VARLEN, GROUPS, LIMIT[options.dtype], 1.0), (GRAPHS, VARLEN, 0.0, 1.3))
    return [
        Figure(
            f"a step with {side}",
            against,
            speedup(times, against, side),
            goal=goal,
            gates=[Gate("largest difference of the losses", largest_difference(curves[side], curves[against]), limit)],
            facts={**facts, "turn_by_turn": spread(times, against, side)},
        )
        for side, against, limit, goal in compared
    ]


def has_gpu() -> bool:
    """True where the benchmark can be run."""
    return torch.cuda.is_available()


@contextmanager
def rows_in_groups() -> Iterator[None]:
    """Without variable-length attention inside the block."""
    plain = varlen_attention.is_right
    varlen_attention.is_right = lambda *heads: False
    try:
        yield
    finally:
        varlen_attention.is_right = plain


if __name__ == "__main__":
    sys.exit(main())
