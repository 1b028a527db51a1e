"""Overhead of a job beside its training steps and its evaluation: in a warm worker, and in a process of its own.

Both sides do the same jobs (other seeds in every turn), turn by turn. The gate compares every adapter, result and
manifest byte by byte. The overhead of a job is its wall time from request to answer, minus the steps and evaluation
recorded in its files. Wall time is what a slot loses; on a machine with other work the fastest turn counts.
`python -m bench.warm_worker`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from bench.common import Figure, interleave, limit_threads, parser, show
from bench.studies import Trainings, pure_seconds, same_outcomes, seconds_of, write_study

SECONDS, RATIO = 0.5, 8.0
WARMUP = 1


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this benchmark."""
    made = parser(__doc__ or "")
    made.add_argument(
        "--model", default="tiny", help="as in a study (default: tiny, so that nothing but the fixed part is left)"
    )
    options = made.parse_args(argv)
    if options.smoke:
        options.repeats = 1
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    limit_threads(options.threads)
    with TemporaryDirectory() as scratch:
        return show(options, measure(Path(scratch), options), model=options.model, threads=options.threads)


def measure(root: Path, options: argparse.Namespace) -> list[Figure]:
    """The overhead against a fresh process, and against the goal in seconds."""
    write_study(root, options.model, WARMUP + options.repeats, rows=64, epochs=1)
    sides = {name: _Side(root, name, options.threads, warm=name == "warm") for name in ("warm", "fresh")}
    try:
        interleave({name: side.turn for name, side in sides.items()}, options.repeats, WARMUP)
    finally:
        for side in sides.values():
            side.slot.close()
    warm, fresh = (sides[name].overheads[WARMUP:] for name in ("warm", "fresh"))
    files, gate = same_outcomes(root / "warm", root / "fresh")
    facts: dict[str, Any] = {"files": files, "jobs": options.repeats}
    facts |= {
        f"{name}, seconds": {"fastest": round(min(times), 3), "median": round(median(times), 3)}
        for name, times in (("warm", warm), ("fresh", fresh))
    }
    facts["first job of the warm worker, seconds"] = round(sides["warm"].overheads[0], 3)
    return [
        Figure(
            "fixed overhead of a job in a warm worker",
            "a fresh process",
            min(fresh) / min(warm),
            RATIO,
            gates=[gate],
            facts=facts,
        ),
        Figure(
            "the same in seconds", f"{SECONDS:g} s", min(warm) / SECONDS, 1.0, at_most=True, gates=[gate], facts=facts
        ),
    ]


class _Side(Trainings):
    """Takes what every job costs beside its steps and evaluations."""

    def __init__(self, *given: Any, **options: Any):
        super().__init__(*given, **options)
        self.overheads: list[float] = []

    def turn(self) -> None:
        job, seconds = self.run_next()
        self.overheads.append(seconds - seconds_of(pure_seconds(self.folder), job))


if __name__ == "__main__":
    sys.exit(main())
