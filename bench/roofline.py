"""Share of the machine's multiplication rate that training reaches: 4 x weights x tokens per step, over the rate of a
large matrix product.

A LoRA step needs four operations per weight and token: two forward, two to bring gradients to the layers below; the
adapters' own work is not counted, nor attention, nor the head. The product of two square matrices, timed in turns with
the step, is the ceiling.
"""

import argparse
import sys
from collections.abc import Sequence

import torch

from bench.common import Figure, Gate, interleave, limit_threads, parser, show
from bench.workload import clock_of, load, ours, rows, settings, vocabulary
from p2p_dist.config.study import LoraSpec
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.lora_targets import target_names
from p2p_dist.training.train_run import TrainRun

WARMUP = 2
ROW = 64
GOALS = {
    "cpu": {"smollm2-135m-instruct": 0.55},
    "cuda": {"random:qwen3-0.6b": 0.30, "random:qwen3-8b": 0.50, "random:qwen3-14b": 0.55},
}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this benchmark."""
    made = parser(__doc__ or "")
    made.add_argument("--model", default="smollm2-135m-instruct", help="as in a study, or `dispatch`: 28 narrow layers")
    made.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    made.add_argument("--tokens", type=int, default=1024, help=f"tokens per step, in rows of {ROW}")
    made.add_argument("--product", type=int, default=2048, help="side of the matrices that are multiplied")
    options = made.parse_args(argv)
    if options.smoke:
        options.model, options.tokens, options.product, options.repeats = "smoke", 128, 64, 2
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    limit_threads(options.threads)
    return show(options, [measure(options)], model=options.model, dtype=options.dtype, threads=options.threads)


def measure(options: argparse.Namespace) -> Figure:
    """Operations per second of a step, divided by those of a product."""
    base = load(options.model, options.dtype)
    batch = rows(options.tokens // ROW, vocabulary(base), 0, exactly=ROW)
    run = TrainRun(settings((WARMUP + options.repeats) * options.steps + 1, len(batch)), 0, batch)
    side = ours(base, [run])
    left, right = (
        torch.randn(options.product, options.product, device=base.device, dtype=base.dtype) for _ in range(2)
    )

    def multiply() -> None:
        for _ in range(options.steps):
            torch.mm(left, right)

    times = interleave(
        {"step": side.training.steps(options.steps), "product": multiply},
        options.repeats,
        WARMUP,
        clock_of(base.device),
    )
    side.training.close()
    weights = linear_weights(base)
    rates = {
        "step": 4 * weights * len(batch) * ROW * options.steps / min(times["step"]),
        "product": 2 * options.product**3 * options.steps / min(times["product"]),
    }
    curve = side.curve()
    gate = Gate("last loss over the first, of the same rows", curve[-1] / curve[0], 1.0)
    facts = {
        "linear_weights": weights,
        "tokens": len(batch) * ROW,
        "gigaflops": {name: round(rate / 1e9, 1) for name, rate in rates.items()},
    }
    goal = (
        GOALS[base.device.type].get(options.model) if options.dtype == "float32" or base.device.type == "cuda" else None
    )
    return Figure(
        "arithmetic of a step",
        "the product of two matrices",
        rates["step"] / rates["product"],
        goal,
        gates=[gate],
        facts=facts,
    )


def linear_weights(base: Base) -> int:
    """Weights of the linear layers in the blocks."""
    return sum(base.model.get_submodule(name).weight.numel() for name in target_names(base.model, LoraSpec()))


if __name__ == "__main__":
    sys.exit(main())
