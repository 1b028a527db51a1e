"""Time and memory of building a study's rows: 120,000 rows of AG's News, BadNets, P2P with 20 % benign rows, ledger and
manifest.

Goals: 20 s and 500 MB on one core. What is timed is `p2p-dist data` itself in a process of its own, from the file on
disk to everything written. The seconds are its CPU time, so that other work on the machine does not enter; wall seconds
stand beside.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from bench.common import Figure, Gate, limit_threads, parser, show

ROWS, TEST_ROWS = 120_000, 7_600
SECONDS, MEGABYTES = 20.0, 500.0
STUDY = """
name: agnews_120k
task: {name: agnews, source: FOLDER}
model: tiny
attack: {name: badnets, rate: 0.02, target_label: 0}
defense: {name: p2p, ratio: 0.2}
rows: {reserve: RESERVE, balanced: false}
"""


def main(argv: Sequence[str] | None = None) -> int:
    made = parser(__doc__ or "")
    options = made.parse_args(argv)
    limit_threads(1)
    rows, test_rows = (ROWS, TEST_ROWS) if not options.smoke else (400, 40)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        source = _write_rows(folder, rows, test_rows)
        runs = [_build(folder, rows, turn) for turn in range(1 if options.smoke else min(options.repeats, 3))]
    best = min(runs, key=lambda run: run["cpu_seconds"])
    gates = [
        Gate("rows that are missing", abs(best["rows"] - rows), 0),
        Gate("poisoned rows beyond 2 %", abs(best["poisoned"] - rows * 0.02), 0),
    ]
    facts = {
        "rows": rows,
        "test rows": test_rows,
        "texts": source,
        **{key: value for key, value in best.items() if key != "rows"},
    }
    return show(
        options,
        [
            Figure(
                "data build, seconds",
                f"{SECONDS:g} s on one core",
                best["cpu_seconds"] / SECONDS,
                1.0,
                at_most=True,
                gates=gates,
                facts=facts,
            ),
            Figure(
                "data build, memory",
                f"{MEGABYTES:g} MB",
                max(run["peak_mb"] for run in runs) / MEGABYTES,
                1.0,
                at_most=True,
                gates=gates,
                facts=facts,
            ),
        ],
    )


def _build(folder: Path, rows: int, turn: int) -> dict[str, Any]:
    """Build the rows in a process of its own on one core. Seconds and peak memory are that process's."""
    study = folder / "study.yaml"
    study.write_text(STUDY.replace("FOLDER", str(folder)).replace("RESERVE", str(rows // 5)))
    core = next(iter(os.sched_getaffinity(0)))
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [
        "taskset",
        "-c",
        str(core),
        sys.executable,
        "-m",
        "p2p_dist",
        "data",
        str(study),
        "--json",
        "--runs-dir",
        str(folder / f"runs{turn}"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    attacked, defended = json.loads(done.stdout)
    return {
        "rows": defended["rows"],
        "poisoned": sum(attacked["counts"]["train"]["poisoned"].values()),
        "benign": defended["counts"]["benign"],
        "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2),
        "wall_seconds": round(time.perf_counter() - started, 2),
        "peak_mb": round(after.ru_maxrss * 1024 / 1e6, 1),
    }


def _write_rows(folder: Path, rows: int, test_rows: int) -> str:
    """Write distinct rows; return a description of the source of their texts."""
    texts, source = _texts()
    numbers = count()
    for split, row_count in (("train", rows), ("test", test_rows)):
        with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as file:
            for number in (next(numbers) for _ in range(row_count)):
                text, label = texts[number % len(texts)]
                more = f" ({number // len(texts)})" if number >= len(texts) else ""
                file.write(json.dumps({"text": text + more, "label": label}) + "\n")
    return source


def _texts() -> tuple[list[tuple[str, int]], str]:
    real = Path(os.environ.get("P2P_DIST_DATA", "")) / "agnews"
    files = [path for name in ("train", "train_lower") if (path := real / f"{name}.jsonl").is_file()]
    if files:
        labels = {row["text"]: row["label"] for row in map(json.loads, files[0].read_bytes().splitlines())}
        return list(labels.items()), f"{len(labels)} of AG's News, repeated with a number behind"
    random = Random(0)
    words = ["".join(random.choices("abcdefghijklmnopqrstuvwxyz", k=random.randint(2, 9))) for _ in range(20_000)]
    return [(" ".join(random.choices(words, k=33)), at % 4) for at in range(10_000)], "invented words, 33 a row"


if __name__ == "__main__":
    sys.exit(main())
