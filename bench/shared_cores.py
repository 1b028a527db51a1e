"""What a training takes whose cores other programs use too, and what it takes alone.

Workers tell the threads of OpenMP to look for work a short while and then sleep (`p2p_dist.scheduling.gangs.SPIN`). The baseline is
a worker without that setting, whose threads look far longer: where every core has another taker, they keep the one they wait for
from running. Both sides train the same jobs, turn by turn, beside a program that computes all the time, and then without it. The gate
compares the bytes. `python -m bench.shared_cores`.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.common import Figure, Gate, interleave, parser, show
from bench.studies import Slot, outcomes, pure_seconds, write_rows
from p2p_dist.scheduling.study import find_cluster, open_study

BESIDE, ALONE = 4.0, 0.85
WARMUP = 1
SETTING = ("GOMP_SPINCOUNT",)
STUDY = """
name: one
task: {name: sst2, source: FOLDER}
model: tiny
attack: {name: badnets, rate: 0.1}
defense: none
seed: [SEEDS]
rows: {train: 128, test: 20, reserve: 20}
train: {learning_rate: 1e-3, num_train_epochs: EPOCHS, global_batch: 16, max_length: 128, dtype: float32, lora: {r: 4}}
"""


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
    write_rows(root)
    seeds = range(2 * (WARMUP + options.repeats))
    study = STUDY.replace("FOLDER", str(root)).replace("SEEDS", ", ".join(map(str, seeds))).replace("EPOCHS", "1" if options.smoke else "5")
    (root / "study.yaml").write_text(study)
    sides = {"ours": _Side(root, "ours", options.threads, ()), "baseline": _Side(root, "baseline", options.threads, SETTING)}
    fastest: list[dict[str, float]] = []
    try:
        for program in (busy(), nullcontext()):
            with program:
                interleave({name: side.turn for name, side in sides.items()}, options.repeats, WARMUP)
            fastest.append({name: min(side.taken()[WARMUP:]) for name, side in sides.items()})
    finally:
        for side in sides.values():
            side.slot.close()
    mine, theirs = (outcomes(root / name) for name in sides)
    gates = [Gate("files that differ", float(sum(mine.get(name) != theirs.get(name) for name in mine | theirs)) if mine else float("nan"), 0)]
    shown = [{"files": len(mine), **{f"{name}, seconds": round(seconds, 3) for name, seconds in found.items()}} for found in fastest]
    ratios = [found["baseline"] / found["ours"] for found in fastest]
    return [
        Figure("training beside a busy program", "threads that wait as OpenMP has them", ratios[0], BESIDE, gates=gates, facts=shown[0]),
        Figure("training alone", "threads that wait as OpenMP has them", ratios[1], ALONE, gates=gates, facts=shown[1]),
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


class _Side:
    """One way to carry the jobs out, in a run folder of its own. A turn is the next training."""

    def __init__(self, root: Path, name: str, threads: int, without: Sequence[str]):
        study = open_study(root / "study.yaml", [], root / name)
        study.folder.write_specs(study.expansion.graph)
        self.folder, plan = study.folder, study.plan(find_cluster(None))
        self.slot = Slot(self.folder, plan, threads, True, without)
        self.trains = [id_ for id_, stage in study.expansion.graph.stages.items() if stage.kind == "train"]
        jobs = [job for job in plan.jobs if not set(job.stages) & set(self.trains)]
        for job in (job for job in jobs if not job.needs):
            self.slot.run(job)
        self.jobs = iter([job for job in plan.jobs if set(job.stages) & set(self.trains)])
        self.seconds: list[float] = []

    def turn(self) -> None:
        job = next(self.jobs)
        self.slot.run(job)
        pure = pure_seconds(self.folder)
        self.seconds.append(sum(pure[id_] for id_ in job.stages if id_ in self.trains))

    def taken(self) -> list[float]:
        """Seconds of the turns since it was asked last."""
        found, self.seconds = self.seconds, []
        return found


if __name__ == "__main__":
    sys.exit(main())
