"""What a job costs beside its training steps and its evaluation: in a worker that stayed, and in a process of its own.

Both sides do the same jobs (other seeds in every turn), turn by turn. The gate compares every adapter, result and manifest byte by
byte. The overhead of a job is its wall time from request to answer, less what its files say of steps and evaluation. Wall time is
what a slot loses; on a machine with other work the fastest turn is nearest to the truth. `python -m bench.warm_worker`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from bench.common import Figure, Gate, interleave, limit_threads, parser, show
from bench.studies import Slot, outcomes, pure_seconds, seconds_of, write_rows
from p2p_dist.scheduling.study import find_cluster, open_study

SECONDS, RATIO = 0.5, 8.0
WARMUP = 1
STUDY = """
name: one
task: {name: sst2, source: FOLDER}
model: MODEL
attack: {name: badnets, rate: 0.1}
defense: none
seed: [SEEDS]
rows: {train: 64, test: 20, reserve: 20}
train: {learning_rate: 1e-3, num_train_epochs: 1, global_batch: 16, max_length: 128, dtype: float32, lora: {r: 4}}
"""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this benchmark."""
    made = parser(__doc__ or "")
    made.add_argument("--model", default="tiny", help="as in a study (default: tiny, so that nothing but the fixed part is left)")
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
    write_rows(root)
    turns = WARMUP + options.repeats
    study = STUDY.replace("FOLDER", str(root)).replace("MODEL", options.model).replace("SEEDS", ", ".join(map(str, range(turns))))
    (root / "study.yaml").write_text(study)
    sides = {"warm": _Side(root, True, options.threads), "fresh": _Side(root, False, options.threads)}
    try:
        interleave({name: side.turn for name, side in sides.items()}, options.repeats, WARMUP)
    finally:
        for side in sides.values():
            side.slot.close()
    warm, fresh = (sides[name].overheads[WARMUP:] for name in ("warm", "fresh"))
    mine, theirs = (outcomes(root / name) for name in ("warm", "fresh"))
    gate = Gate("files that differ", float(sum(mine.get(name) != theirs.get(name) for name in mine | theirs)) if mine else float("nan"), 0)
    facts: dict[str, Any] = {"files": len(mine), "jobs": options.repeats}
    facts |= {f"{name}, seconds": {"fastest": round(min(times), 3), "median": round(median(times), 3)} for name, times in (("warm", warm), ("fresh", fresh))}
    facts["first job of the warm worker, seconds"] = round(sides["warm"].overheads[0], 3)
    return [
        Figure("fixed overhead of a job in a warm worker", "a fresh process", min(fresh) / min(warm), RATIO, gates=[gate], facts=facts),
        Figure("the same in seconds", f"{SECONDS:g} s", min(warm) / SECONDS, 1.0, at_most=True, gates=[gate], facts=facts),
    ]


class _Side:
    """One way to carry the jobs out, in a run folder of its own. A turn is the next job that trains."""

    def __init__(self, root: Path, warm: bool, threads: int):
        study = open_study(root / "study.yaml", [], root / ("warm" if warm else "fresh"))
        study.folder.write_specs(study.expansion.graph)
        self.folder, plan = study.folder, study.plan(find_cluster(None))
        self.slot = Slot(self.folder, plan, threads, warm)
        self.overheads: list[float] = []
        trains = {id_ for id_, stage in study.expansion.graph.stages.items() if stage.kind == "train"}
        rows = [job for job in plan.jobs if not set(job.stages) & trains]
        for job in rows:
            if not job.needs:
                self.slot.run(job)
        self.jobs = iter([job for job in plan.jobs if set(job.stages) & trains])

    def turn(self) -> None:
        """The next training and its evaluations."""
        job = next(self.jobs)
        seconds = self.slot.run(job)
        self.overheads.append(seconds - seconds_of(pure_seconds(self.folder), job))


if __name__ == "__main__":
    sys.exit(main())
