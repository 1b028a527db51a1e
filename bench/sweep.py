"""Utilisation of two slots by a sweep of many short runs: seconds of training steps and evaluation, over makespan
times slots.

30 trainings of three sizes of random models (24 runs and the six clean models they are held against), other lengths, as
`p2p-dist run` carries them out. The makespan is that of the whole command: interpreter, plan, rows, workers and report
included. Beside it stands the same from the first job's start to the last job's end, what the scheduler takes between
two jobs of a slot, and the controller's own CPU time. `python -m bench.sweep` (about five minutes); `--fresh-workers`
for a process per job in place of workers that stay.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

from bench.common import Figure, Gate, limit_threads, parser, show
from bench.studies import pure_seconds, write_model, write_rows
from p2p_dist.results.rundir import RunDir

SLOTS = 2
EFFICIENCY, GAP = 0.90, 0.050
SHAPES = {
    "narrow": {"layers": 3, "hidden": 32, "intermediate": 96},
    "middle": {"layers": 6, "hidden": 64, "intermediate": 192},
}
STUDY = """
name: sweep
task: {name: sst2, source: FOLDER}
model: [MODELS]
attack: [{name: badnets, rate: 0.1}, {name: addsent, rate: 0.1}]
defense: [none, p2p]
seed: [SEEDS]
rows: {train: TRAIN, test: 100, reserve: CHECKED}
train: {learning_rate: 1e-3, num_train_epochs: EPOCHS, global_batch: 16, max_length: 128, dtype: float32, lora: {r: 4}}
"""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this benchmark."""
    made = parser(__doc__ or "")
    made.add_argument("--backend", default="local", choices=("local", "ray"))
    made.add_argument("--fresh-workers", action="store_true", help="a process per job")
    made.add_argument("--epochs", type=int, default=12, help="length of the runs (default 12: 4 to 20 s each)")
    return made.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    limit_threads(options.threads)
    with TemporaryDirectory() as scratch:
        return show(
            options,
            measure(Path(scratch), options),
            backend=options.backend,
            slots=SLOTS,
            warm=not options.fresh_workers,
        )


def measure(root: Path, options: argparse.Namespace) -> list[Figure]:
    """Carry the sweep out once and read what it left."""
    write_rows(root)
    shapes = {"narrow": SHAPES["narrow"]} if options.smoke else SHAPES
    models = ["tiny", *(str(write_model(root / name, **shape)) for name, shape in shapes.items())]
    values = {"MODELS": ", ".join(models), "FOLDER": str(root), "SEEDS": "0" if options.smoke else "0, 1"}
    values |= {"TRAIN": "64" if options.smoke else "400", "CHECKED": "20" if options.smoke else "100"}
    values |= {"EPOCHS": str(1 if options.smoke else options.epochs)}
    study = STUDY
    for name, value in values.items():
        study = study.replace(name, value)
    (root / "study.yaml").write_text(study)
    command = [
        sys.executable,
        "-m",
        "p2p_dist",
        "run",
        str(root / "study.yaml"),
        "--runs-dir",
        str(root),
        "--slots",
        str(SLOTS),
        "--backend",
        options.backend,
    ]
    command += ["--checkpoint-every", "1000000", "--json", *(["--fresh-workers"] if options.fresh_workers else [])]
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode > 1:  # 1: some runs failed, which the gate says
        raise RuntimeError(done.stderr)
    runs = json.loads(done.stdout)
    used = sum(pure_seconds(folder := RunDir(root / "sweep")).values())
    jobs = _jobs(folder)
    span = max(job["end"] for job in jobs) - min(job["start"] for job in jobs)
    gaps = _gaps(jobs)
    facts: dict[str, Any] = {
        "runs": runs["runs"],
        "jobs": len(jobs),
        "pure seconds": round(used, 1),
        "makespan of the command": round(seconds, 1),
    }
    facts |= {"makespan of the jobs": round(span, 1), "efficiency over the jobs": round(used / span / SLOTS, 3)}
    facts |= {
        "milliseconds between jobs": {"mean": round(1e3 * mean(gaps)), "slowest": round(1e3 * max(gaps))},
        "gaps": len(gaps),
    }
    facts["CPU seconds of everything but steps"] = round(
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime - used, 1
    )
    gates = [Gate("runs that are missing", float(runs["runs"] - runs["done"]), 0)]
    return [
        Figure("sweep efficiency", "all of two slots", used / seconds / SLOTS, EFFICIENCY, gates=gates, facts=facts),
        Figure(
            "scheduler between two jobs of a slot",
            f"{1e3 * GAP:g} ms",
            mean(gaps) / GAP,
            1.0,
            at_most=True,
            gates=gates,
        ),
    ]


def _jobs(folder: RunDir) -> list[dict[str, float]]:
    """Start and end of every job by the clock of the file system: its attempt's first file, and the last output of its
    stages."""
    jobs = []
    for path in folder.path.glob("*/*/attempts/*/placement.json"):
        stages = json.loads(path.read_text())["stages"]
        ends = [folder.find(id_).marker.stat().st_mtime for id_ in stages]
        jobs.append({"start": path.stat().st_mtime, "end": max(ends)})
    return sorted(jobs, key=lambda job: job["start"])


def _gaps(jobs: Sequence[dict[str, float]]) -> list[float]:
    """Seconds from the end of a job to the start of the one that took its slot, where both slots were in use."""
    gaps = []
    ends = sorted(job["end"] for job in jobs)
    for index, job in enumerate(jobs[SLOTS:], SLOTS):
        before = [end for end in ends if end <= job["start"]]
        # The job that took the k-th slot waited for the k-th end, unless that slot was free for want of work.
        if len(before) == index - SLOTS + 1:
            gaps.append(job["start"] - before[-1])
    return gaps


if __name__ == "__main__":
    sys.exit(main())
