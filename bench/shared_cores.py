"""Time of a training on cores that other programs use too, and alone.

Workers tell the threads of OpenMP to look for work a short while and then sleep
(`p2p_dist.scheduling.process_groups.SPIN`). The baseline is a worker without that setting, whose threads look far
longer: where every core has another taker, they keep the one they wait for from running. Both sides train the same
jobs, turn by turn, beside a program that computes all the time, and then without it. The gate compares the bytes.
`python -m bench.shared_cores`.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.common import Figure, interleave, parser, show
from bench.studies import Trainings, pure_seconds, same_outcomes, write_study

BESIDE, ALONE = 4.0, 0.85
WARMUP = 1
SETTING = ("GOMP_SPINCOUNT",)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this benchmark."""
    made = parser(__doc__ or "")
    made.set_defaults(threads=max(2, os.cpu_count() or 2))
    options = made.parse_args(argv)
    if options.smoke:
        options.repeats = 1
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    with TemporaryDirectory() as scratch:
        return show(options, measure(Path(scratch), options), threads=options.threads)


def measure(root: Path, options: argparse.Namespace) -> list[Figure]:
    """Seconds of the steps, beside a busy program and alone."""
    write_study(root, "tiny", 2 * (WARMUP + options.repeats), rows=128, epochs=1 if options.smoke else 5)
    sides = {
        "ours": _Side(root, "ours", options.threads),
        "baseline": _Side(root, "baseline", options.threads, without=SETTING),
    }
    fastest: list[dict[str, float]] = []
    try:
        for program in (busy(), nullcontext()):
            with program:
                interleave({name: side.turn for name, side in sides.items()}, options.repeats, WARMUP)
            fastest.append({name: min(side.taken()[WARMUP:]) for name, side in sides.items()})
    finally:
        for side in sides.values():
            side.slot.close()
    files, gate = same_outcomes(root / "ours", root / "baseline")
    shown = [
        {"files": files, **{f"{name}, seconds": round(value, 3) for name, value in seconds.items()}}
        for seconds in fastest
    ]
    ratios = [seconds["baseline"] / seconds["ours"] for seconds in fastest]
    return [
        Figure(
            "training beside a busy program",
            "threads that wait as OpenMP has them",
            ratios[0],
            BESIDE,
            gates=[gate],
            facts=shown[0],
        ),
        Figure(
            "training alone", "threads that wait as OpenMP has them", ratios[1], ALONE, gates=[gate], facts=shown[1]
        ),
    ]


@contextmanager
def busy() -> Iterator[None]:
    """A program that computes all the time."""
    program = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        program.kill()
        program.wait()


class _Side(Trainings):
    """Takes what the steps of every training take."""

    def __init__(self, *given: Any, **options: Any):
        super().__init__(*given, **options)
        self.seconds: list[float] = []

    def turn(self) -> None:
        job, _ = self.run_next()
        pure = pure_seconds(self.folder)
        self.seconds.append(sum(pure[id_] for id_ in job.stages if id_ in self.trains))

    def taken(self) -> list[float]:
        """Seconds of the turns since it was asked last."""
        seconds, self.seconds = self.seconds, []
        return seconds


if __name__ == "__main__":
    sys.exit(main())
