"""Overhead of an engine over the arithmetic: our step, Trainer's and DeepSpeed's against bare loops, where a step is
all dispatch.

Two bare loops, batches made beforehand: one over PEFT's model, and one over our own layers and packed batches, which
leaves of our step only what the engine adds (choosing rows, packing, clipping and schedules per run, lines for
observers). The gate is the losses.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from bench.common import Figure, Gate, LeftOut, Stepwise, interleave, limit_threads, milliseconds, parser, show, spread
from bench.peers import bare_loop, deepspeed_loop, hf_trainer
from bench.workload import Side, another, clock_of, largest_difference, load, ours, rows, settings, vocabulary
from p2p_dist.errors import UserError
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.forward import answer_logits
from p2p_dist.modeling.lora import Adapters
from p2p_dist.modeling.packing import pack
from p2p_dist.training.engine import Execution
from p2p_dist.training.train_run import TrainRun

WARMUP = 3
PEFT, OWN = "a bare loop over PEFT", "a bare loop over our layers"
LIMIT = {"float32": 1e-3, "bfloat16": 5e-2}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this benchmark."""
    made = parser(__doc__ or "")
    made.add_argument("--model", default="dispatch", help="as in a study, or `dispatch`: 28 narrow layers")
    made.add_argument("--dtype", default="float32", choices=sorted(LIMIT))
    made.add_argument("--batch", type=int, default=4, help="rows per step, of 12 tokens each")
    made.set_defaults(repeats=15)
    options = made.parse_args(argv)
    if options.smoke:
        options.model, options.repeats = "smoke", 2
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    limit_threads(options.threads)
    return show(options, measure(options), model=options.model, dtype=options.dtype, threads=options.threads)


def measure(options: argparse.Namespace) -> list[Figure | LeftOut]:
    """Every engine's step, divided by that of a bare loop."""
    base = load(options.model, options.dtype)
    run = TrainRun(
        settings((WARMUP + options.repeats) * options.steps + 1, options.batch),
        0,
        rows(options.batch, vocabulary(base), 0, exactly=12),
    )
    starts: dict[str, Callable[[], Side]] = {
        PEFT: lambda: bare_loop(base, run),
        OWN: lambda: own_loop(base, run),
        "p2p-dist": lambda: ours(base, [run]),
        # Before there is a process group, which it would take for a reason to wrap the model.
        "HF Trainer": lambda: hf_trainer(base, run, None),
        "p2p-dist, ZeRO-1": lambda: ours(base, [run], Execution(zero=1)),
        "DeepSpeed ZeRO-1": lambda: deepspeed_loop(base, run, 1),
        "DeepSpeed ZeRO-3": lambda: deepspeed_loop(base, run, 3),
    }
    figures: list[Figure | LeftOut] = []
    sides: dict[str, Side] = {}
    for name, start in starts.items():
        try:
            side = start()
            side.training.step()
            sides[name] = side
        except (ImportError, UserError) as error:
            figures.append(LeftOut(name, str(error).splitlines()[0]))
    times = interleave(
        {name: side.training.steps(options.steps) for name, side in sides.items()},
        options.repeats,
        WARMUP - 1,
        clock_of(base.device),
    )
    for side in sides.values():
        side.training.close()
    goals = {("p2p-dist", PEFT): 1.10, ("p2p-dist", OWN): 1.10, ("p2p-dist, ZeRO-1", PEFT): 1.5}
    compared = [("p2p-dist", PEFT), ("p2p-dist", OWN), *((name, PEFT) for name in list(sides)[3:])]
    facts = {"rows": options.batch, "real_tokens": 12 * options.batch, "milliseconds": milliseconds(times)}
    for name, bare in compared:
        gate = Gate(
            "largest difference of the losses",
            largest_difference(sides[name].curve(), sides[bare].curve()),
            LIMIT[options.dtype],
        )
        ratio, turns = min(times[name]) / min(times[bare]), {"turn_by_turn": spread(times, name, bare)}
        figures.append(
            Figure(f"a step of {name}", bare, ratio, goals.get((name, bare)), True, [gate], {**facts, **turns})
        )
    return figures


def own_loop(base: Base, run: TrainRun) -> Side:
    """Our layers in a loop of ten lines."""
    losses: list[Any] = []

    def work(tick: Callable[[], None]) -> None:
        model, spec = another(base).model, run.spec
        adapters = Adapters(model, spec.lora, 1)
        adapters.load(0, adapters.init_params(run.stream("init")))
        numbers = torch.nn.Parameter(adapters.flat_params)
        numbers.grad = adapters.flat_grads
        adamw = torch.optim.AdamW([numbers], lr=spec.learning_rate, weight_decay=spec.weight_decay, fused=True)
        decay = torch.optim.lr_scheduler.LinearLR(adamw, 1.0, 0.0, run.schedule.steps)
        batches = [pack([[run.rows[at] for at in picked]]).to(base.device) for picked in run.schedule.batches()]
        for batch in batches:
            adapters.flat_grads.zero_()
            loss = cross_entropy(
                answer_logits(model, batch.ids, batch.positions, batch.packed, batch.answers), batch.targets
            )
            loss.backward()
            torch.nn.utils.clip_grad_norm_([numbers], spec.max_grad_norm or float("inf"))
            adamw.step()
            decay.step()
            losses.append(loss.detach())
            tick()

    return Side(Stepwise(work), losses)


if __name__ == "__main__":
    sys.exit(main())
