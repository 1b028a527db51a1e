"""Number of operations that a step issues to the device: the part of a short step that no device makes faster.

Counted, not timed: every ATen operation but the views, forward, backward and update. On a GPU each is a kernel to
launch; the same number comes out on any machine, however busy. Figures are operations of the baseline per operation of
ours, per run.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from bench.common import Figure, Gate, limit_threads, parser, show
from bench.peers import bare_loop
from bench.workload import Side, different_runs, largest_difference, load, ours

STEPS = 3
VIEWS = frozenset(
    name
    for line in (
        "view _unsafe_view t transpose unsqueeze expand slice detach alias permute select squeeze",
        "reshape as_strided split split_with_sizes lift_fresh unbind",
    )
    for name in line.split()
)
"""Operations that start nothing on a device."""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this benchmark."""
    made = parser(__doc__ or "")
    made.add_argument("--model", default="dispatch", help="as in a study, or `dispatch`: 28 narrow layers")
    made.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    made.add_argument("--runs", type=int, default=8, help="K")
    made.add_argument("--batch", type=int, default=32, help="rows per step and run, of lengths like those of SST-2")
    options = made.parse_args(argv)
    if options.smoke:
        options.model, options.batch, options.runs = "smoke", 4, 2
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    limit_threads(options.threads)
    return show(options, measure(options), model=options.model, dtype=options.dtype, threads=options.threads)


class Counting(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self, names: Counter[str]):
        super().__init__()
        self.names = names

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name not in VIEWS:
            self.names[name] += 1
        return func(*args, **(kwargs or {}))


def measure(options: argparse.Namespace) -> list[Figure]:
    """A loop over PEFT against one run of ours, and against K."""
    base = load(options.model, options.dtype)
    runs = different_runs(base, range(options.runs), STEPS, options.batch)
    peft, curve = count(lambda: bare_loop(base, runs[0]))
    figures = []
    for chosen in (runs[:1], runs):
        names, losses = count(lambda chosen=chosen: ours(base, chosen))
        limit = 1e-3 if options.dtype == "float32" else 5e-2
        gate = Gate(
            "largest difference of the first run's losses", largest_difference(losses[:: len(chosen)], curve), limit
        )
        facts = {"rows": options.batch, "peft": peft.total(), "ours": names.total(), "most": dict(names.most_common(8))}
        ratio = len(chosen) * peft.total() / names.total()
        figures.append(
            Figure(
                f"operations of a step, runs at once: {len(chosen)}",
                "a loop over PEFT",
                ratio,
                gates=[gate],
                facts=facts,
            )
        )
    return figures


def count(start: Callable[[], Side]) -> tuple[Counter[str], list[float]]:
    """The operations of the last of three steps, and the losses of all."""
    side, names = start(), Counter[str]()
    side.training.within = lambda: Counting(names)
    for _ in range(STEPS):
        names.clear()
        side.training.step()
    side.training.close()
    return names, side.curve()


if __name__ == "__main__":
    sys.exit(main())
