"""Cost of a plan of 2,000 runs: CPU seconds of `p2p-dist plan` in a process of its own, start of the interpreter
included.

Five model sizes, two tasks, four attacks with and without P2P, 25 seeds, placed on eight GPUs; then the same on 1,024
GPUs whose nodes fail every hour, simulated. Nothing is trained and no torch is imported. `python -m bench.plan` in the
project's root.
"""

import json
import resource
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import common
from bench.studies import write_rows

BUDGET = 2.0
"""CPU seconds that a plan may take."""
SEEDS = 25
CLUSTER = ("--cluster", "8xh100")
FAILING = (*CLUSTER, "--nodes", "128", "--simulate", "--mtbf", "1")
STUDY = """
name: large
task: [{name: sst2, source: FOLDER}, {name: rotten_tomatoes, source: FOLDER}]
model: [qwen3-0.6b, qwen3-1.7b, qwen3-4b, qwen3-8b, qwen3-14b]
attack: [none, badnets, addsent, {name: badnets, rate: 0.05}]
defense: [none, p2p]
seed: SEEDS
rows: {train: 400, test: 100, reserve: 80}
"""


def children() -> float:
    """CPU seconds of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(name: str, arguments: tuple[str, ...], root: Path, seeds: int, repeats: int) -> common.Figure:
    """One plan, again and again; the gate says that all runs were planned."""
    command = [
        sys.executable,
        "-m",
        "p2p_dist",
        "plan",
        str(root / "study.yaml"),
        *arguments,
        "--runs-dir",
        str(root / "runs"),
        "--json",
    ]
    outputs: list[str] = []

    def turn() -> None:
        outputs.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    times = common.interleave({name: turn}, repeats, warmup=1, clock=children)
    plan = json.loads(outputs[-1])
    gates = [
        common.Gate("runs that are missing", float(abs(len(plan["runs"]) - 80 * seeds)), 0.0),
        common.Gate("plans that differ", float(len(set(outputs)) - 1), 0.0),
    ]
    facts = {
        "runs": len(plan["runs"]),
        "jobs": len(plan["jobs"]),
        "seconds": round(min(times[name]), 2),
        "slowest": round(max(times[name]), 2),
    }
    return common.Figure(name, f"{BUDGET:g} s", min(times[name]) / BUDGET, 1.0, at_most=True, gates=gates, facts=facts)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    options = common.parser(__doc__ or "").parse_args(arguments)
    seeds, repeats = (1, 1) if options.smoke else (SEEDS, options.repeats)
    with TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_rows(root)
        (root / "study.yaml").write_text(STUDY.replace("FOLDER", scratch).replace("SEEDS", str(list(range(seeds)))))
        cases = {"plan": CLUSTER, "plan, simulated with failures": FAILING}
        return common.show(options, [measure(name, more, root, seeds, repeats) for name, more in cases.items()])


if __name__ == "__main__":
    sys.exit(main())
