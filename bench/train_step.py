"""Real tokens per second of one run, against Hugging Face's Trainer with PEFT and TRL's SFTTrainer.

All sides train the same adapter on the same batches; a row's padding is the other side's business, so real tokens per
second are rows per second. The gate is the loss curve. Figures that are compared are in fp32; `--dtype bfloat16` is
what studies use.
"""

import argparse
import sys
from collections.abc import Callable, Sequence

from bench.common import Figure, Gate, LeftOut, interleave, limit_threads, milliseconds, parser, show, speedup, spread
from bench.peers import hf_trainer, trl_trainer
from bench.workload import Side, clock_of, largest_difference, load, ours, padding, rows_of_run, settings, vocabulary
from p2p_dist.training.train_run import TrainRun

WARMUP = 2
CURVE = {"float32": 1e-3, "bfloat16": 5e-2}
"""Limit of the difference between loss curves, in nats."""
GOALS = {"cpu": (1.7, 4.5, 1.3), "cuda": (1.3, None, 1.2)}
"""Against Trainer padding to the longest row, Trainer padding to 128, TRL. For GPUs the first is that of models up to 2
billion weights."""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this benchmark."""
    made = parser(__doc__ or "")
    made.add_argument("--model", default="smollm2-135m-instruct", help="as in a study, or `dispatch`: 28 narrow layers")
    made.add_argument("--dtype", default="float32", choices=sorted(CURVE))
    made.add_argument("--batch", type=int, default=16, help="rows per step")
    made.add_argument("--batches", type=int, default=1, help="batches that take turns (default 1)")
    made.add_argument("--layers", type=int, help="train the upper layers alone; steps are those after the first epoch")
    made.add_argument("--without", nargs="*", default=[], choices=["pad_128", "trl"], help="sides to leave out")
    options = made.parse_args(argv)
    if options.smoke:
        options.model, options.batch, options.repeats = "smoke", 4, 2
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    limit_threads(options.threads)
    return show(options, measure(options), model=options.model, dtype=options.dtype, threads=options.threads)


def measure(options: argparse.Namespace) -> list[Figure | LeftOut]:
    """One figure per rival."""
    base = load(options.model, options.dtype)
    batch = rows_of_run(options.batch, vocabulary(base), 0, 0, options.batches)
    spec = settings((WARMUP + options.repeats) * options.steps + 1, options.batch, batches=options.batches)
    if options.layers:
        spec = spec.model_copy(update={"lora": spec.lora.model_copy(update={"layers": options.layers})})
    run = TrainRun(spec, 0, batch)
    rivals: dict[str, Callable[[], Side]] = {
        "HF Trainer, padded to the longest row": lambda: hf_trainer(base, run, None),
        "HF Trainer, padded to 128 tokens": lambda: hf_trainer(base, run, 128),
        "TRL SFTTrainer": lambda: trl_trainer(base, run),
    }
    goals = dict(zip(rivals, GOALS[base.device.type], strict=True))
    rows: list[Figure | LeftOut] = []
    sides = {"p2p-dist": ours(base, [run])}
    for (name, start), key in zip(rivals.items(), ("", "pad_128", "trl"), strict=True):
        try:
            if key in options.without:
                rows.append(LeftOut(name, "as asked"))
            else:
                sides[name] = start()
        except ImportError as error:
            rows.append(LeftOut(name, f"not installed ({error.name})"))
    times = interleave(
        {name: side.training.steps(options.steps) for name, side in sides.items()},
        options.repeats,
        WARMUP,
        clock_of(base.device),
    )
    for side in sides.values():
        side.training.close()
    real = sum(len(row.ids) for row in batch) // options.batches
    facts = {
        "rows": options.batch,
        "real_tokens": real,
        "padded_to_longest": round(padding(batch), 2),
        "milliseconds": milliseconds(times),
    }
    for name in list(sides)[1:]:
        gate = Gate(
            "largest difference of the losses",
            largest_difference(sides["p2p-dist"].curve(), sides[name].curve()),
            CURVE[options.dtype],
        )
        per_turn = {"turn_by_turn": spread(times, name, "p2p-dist")}
        rows.append(
            Figure(
                "real tokens/s of one run",
                name,
                speedup(times, name, "p2p-dist"),
                goals[name],
                gates=[gate],
                facts={**facts, **per_turn},
            )
        )
    return rows


if __name__ == "__main__":
    sys.exit(main())
