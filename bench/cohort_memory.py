"""Memory of K adapters trained in one process, against K processes with an adapter each.

On a CPU the proportional set size (PSS) of all processes is added up while they train, so that libraries which they
share count once, and the highest sum is taken; on a GPU what each process reserved at most. Loading is left out. The
gate is the losses.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from threading import Event, Thread
from typing import Any

import torch

from bench.common import Figure, Gate, limit_threads, parser, pss_mib, show
from bench.workload import different_runs, largest_difference, load, ours
from p2p_dist.training.engine import Execution

STEPS = 4
LIMIT = {"float32": 1e-4, "bfloat16": 2e-2}
GOALS = {"cpu": 2.0, "cuda": 2.2}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this benchmark."""
    made = parser(__doc__ or "")
    made.add_argument("--model", default="smollm2-135m-instruct", help="as in a study, or `dispatch`: 28 narrow layers")
    made.add_argument("--dtype", default="float32", choices=sorted(LIMIT))
    made.add_argument("--runs", type=int, default=4, help="K")
    made.add_argument("--batch", type=int, default=16, help="rows per step and run")
    made.add_argument("--micro-batch", type=int, help="rows of each run in a pass of the cohort (default: all)")
    made.add_argument("--member", type=int, metavar="FIRST", help=argparse.SUPPRESS)
    options = made.parse_args(argv)
    if options.smoke:
        options.model, options.batch, options.runs = "smoke", 4, 2
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    limit_threads(options.threads)
    if options.member is not None:
        return member(options)
    return show(options, [measure(options)], model=options.model, dtype=options.dtype, threads=options.threads)


def measure(options: argparse.Namespace) -> Figure:
    """Peak of K processes divided by the peak of one process with K runs."""
    apart, alone = _peak([_start(options, 1, first) for first in range(options.runs)])
    joined, together = _peak([_start(options, options.runs, 0, options.micro_batch or 0)])
    gate = Gate(
        "largest difference of a run's losses, relative",
        largest_difference(alone, together) / max(alone),
        LIMIT[options.dtype],
    )
    facts = {
        "runs": options.runs,
        "rows_per_run": options.batch,
        "micro_batch": options.micro_batch,
        "separate_mib": round(apart),
        "together_mib": round(joined),
    }
    goal = GOALS["cuda" if torch.cuda.is_available() else "cpu"]
    return Figure(
        f"memory of {options.runs} adapters",
        f"{options.runs} processes",
        apart / joined,
        goal,
        gates=[gate],
        facts=facts,
    )


def member(options: argparse.Namespace) -> int:
    """One process: train a step, wait for a line, train on, report, and stay until there is another line."""
    base = load(options.model, options.dtype)
    side = ours(
        base,
        different_runs(base, range(options.member, options.member + options.runs), STEPS + 2, options.batch),
        Execution(micro_batch=options.micro_batch or None),
    )
    side.training.step()
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(STEPS):
        side.training.step()
    on_gpu = torch.cuda.is_available()
    reserved = torch.cuda.max_memory_reserved() / 2**20 if on_gpu else None
    print(json.dumps({"losses": side.curve()[-options.runs :], "reserved_mib": reserved}), flush=True)
    sys.stdin.readline()
    side.training.close()
    return 0


def _start(options: argparse.Namespace, runs: int, first: int, micro_batch: int = 0) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "bench.cohort_memory",
        "--member",
        str(first),
        "--runs",
        str(runs),
        "--model",
        options.model,
    ]
    command += ["--dtype", options.dtype, "--batch", str(options.batch), "--threads", str(options.threads)]
    command += ["--micro-batch", str(micro_batch)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _peak(processes: Sequence[subprocess.Popen[str]]) -> tuple[float, list[float]]:
    """MiB at the highest, and the last loss of every run. The processes start training together."""
    reports = []
    for process in processes:
        _expect(process, lambda line: line == "ready\n")
    over, sums = Event(), [0.0]
    watch = Thread(target=_watch, args=([process.pid for process in processes], over, sums))
    watch.start()
    for process in processes:
        _tell(process)
    reports = [json.loads(_expect(process, lambda line: line.startswith("{"))) for process in processes]
    over.set()
    watch.join()
    for process in processes:
        _tell(process)
        process.communicate()
    reserved = [report["reserved_mib"] for report in reports]
    return max(sums) if None in reserved else sum(reserved), [loss for report in reports for loss in report["losses"]]


def _watch(pids: Sequence[int], over: Event, sums: list[float]) -> None:
    while not over.is_set():
        sums.append(sum(pss_mib(pid) for pid in pids))
        time.sleep(0.02)


def _expect(process: subprocess.Popen[str], matches: Any) -> str:
    """The next line that is wanted: libraries may write before."""
    assert process.stdout is not None
    for line in process.stdout:
        if matches(line):
            return line
    raise RuntimeError(f"a process ended early, exit code {process.wait()}; its words are above")


def _tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


if __name__ == "__main__":
    sys.exit(main())
