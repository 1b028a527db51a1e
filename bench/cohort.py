"""K adapters trained in one process on one frozen base, against K trainings one after the other.

Every run of the cohort has rows, a seed and a learning rate of its own; the gates are the loss curves of all of them,
each against the same run alone. Where a step is dispatch (narrow layers, or a GPU) the gain is near K; where it is
arithmetic (a CPU), none.
"""

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence

from bench.common import Figure, Gate, interleave, limit_threads, milliseconds, parser, show, speedup, spread
from bench.peers import bare_loop
from bench.workload import Side, clock_of, different_runs, largest_difference, load, ours

WARMUP = 2
LIMIT = {"float32": 1e-5, "bfloat16": 2e-2}
"""Limit of the relative difference between a run's losses in the cohort and alone."""
PEFT_LIMIT = 1e-3
GOALS: dict[str, tuple[float | None, float | None]] = {
    "dispatch": (5.0, 3.5),
    "smollm2-135m-instruct": (0.98, 0.98),
    "random:qwen3-0.6b": (None, 6.0),
    "random:qwen3-1.7b": (None, 3.5),
    "random:qwen3-4b": (None, 2.0),
    "random:qwen3-8b": (None, 1.25),
    "random:qwen3-14b": (None, 0.98),
}
"""Against a loop over PEFT, and against our own training of one run. Those of Qwen3 are for one H200 and K as in
bench/gpu.py."""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this benchmark."""
    made = parser(__doc__ or "")
    made.add_argument("--model", default="dispatch", help="as in a study, or `dispatch`: 28 narrow layers")
    made.add_argument("--dtype", default="float32", choices=sorted(LIMIT))
    made.add_argument("--runs", type=int, default=8, help="K")
    made.add_argument("--batch", type=int, default=1, help="rows per step and run")
    made.add_argument(
        "--length",
        type=int,
        default=4,
        help="tokens of every row (default 4: nothing but dispatch); 0: lengths like those of SST-2",
    )
    made.add_argument("--batches", type=int, default=1, help="batches of a run that take turns (default 1)")
    options = made.parse_args(argv)
    if options.smoke:
        options.model, options.batch, options.length, options.repeats, options.runs = "smoke", 4, 0, 2, 2
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    limit_threads(options.threads)
    return show(options, measure(options), model=options.model, dtype=options.dtype, threads=options.threads)


def measure(options: argparse.Namespace) -> list[Figure]:
    """Seconds per step and adapter."""
    base = load(options.model, options.dtype)
    steps = (WARMUP + options.repeats) * options.steps
    runs = different_runs(base, range(options.runs), steps, options.batch, options.length, options.batches)
    names = ("a loop over PEFT, one run at a time", "p2p-dist, one run at a time")
    together = f"{len(runs)} runs in one process"
    sides = {
        together: [ours(base, runs)],
        names[0]: [bare_loop(base, run) for run in runs],
        names[1]: [ours(base, [run]) for run in runs],
    }
    times = interleave(
        {name: _turn(members, options.steps) for name, members in sides.items()},
        options.repeats,
        WARMUP,
        clock_of(base.device),
    )
    for side in itertools.chain.from_iterable(sides.values()):
        side.training.close()
    curve = sides[together][0].curve()
    curves = [curve[k :: len(runs)] for k in range(len(runs))]
    gates = [
        _gate(curves, sides[names[1]], "to the run alone", LIMIT[options.dtype]),
        _gate(curves, sides[names[0]], "to PEFT", PEFT_LIMIT),
    ]
    tokens = [sum(len(row.ids) for row in run.rows) for run in runs]
    facts = {"runs": len(runs), "rows": options.batch, "real_tokens": tokens, "milliseconds": milliseconds(times)}
    return [
        Figure(
            f"{len(runs)} adapters at once",
            name,
            speedup(times, name, together),
            goal,
            gates=gates,
            facts={**facts, "turn_by_turn": spread(times, name, together)},
        )
        for name, goal in zip(names, GOALS.get(options.model, (None, None)), strict=True)
    ]


def _turn(sides: Sequence[Side], steps: int) -> Callable[[], None]:
    """A turn of `steps` steps of every run."""

    def turn() -> None:
        for side in sides:
            for _ in range(steps):
                side.training.step()

    return turn


def _gate(curves: Sequence[Sequence[float]], sides: Sequence[Side], what: str, limit: float) -> Gate:
    """The loss curves of all runs against those of others, in parts of the loss."""
    apart = max(largest_difference(curve, side.curve()) / max(curve) for curve, side in zip(curves, sides, strict=True))
    return Gate(f"largest difference of a run's losses {what}, relative", apart, limit)


if __name__ == "__main__":
    sys.exit(main())
