"""What goes wrong on a large cluster, and what it costs: 10,080 runs of 0.6 to 70 billion parameters on 1,024 GPUs,
simulated.

Seven sizes, six attacks, four defenses and 60 seeds; 200,000 rows and three epochs each, planned for nodes of eight
H100s. Each scenario adds a trouble to the one before; the figure is the simulated makespan over the lower bound, the
same on every machine. `python -m bench.large_cluster` in the project's root.
"""

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import common
from p2p_dist.config.graph import Graph
from p2p_dist.planning.cluster import invented
from p2p_dist.planning.nodes import Nodes
from p2p_dist.planning.plan import Plan
from p2p_dist.planning.replay import Overheads
from p2p_dist.report import simulation_view
from p2p_dist.scheduling.study import find_cluster, open_study

HOUR = 3600.0
STUDY = """
name: large
task: {name: sst2, source: FOLDER}
model: [qwen3-0.6b, qwen3-1.7b, qwen3-4b, qwen3-8b, qwen3-14b, qwen3-32b, llama-3.3-70b-instruct]
attack: [none, badnets, addsent, {name: badnets, rate: 0.05}, {name: addsent, rate: 0.05}, {name: badnets, rate: 0.2}]
defense: [none, p2p, clean_ft, clean_only]
seed: SEEDS
rows: {train: 200000, test: 400, reserve: 40000}
train: {num_train_epochs: 3, global_batch: 32}
"""
ROWS = 250_000
TEXT = "words " * 20
"""Plans tell the tokens of a row from the size of its file: some 30, as rows of SST-2 have with their prompt."""
SEEDS = 60


def scenarios(nodes: Nodes) -> Mapping[str, tuple[Nodes, Overheads]]:
    """Nodes and overheads by name, each with one trouble more than the one before."""
    failing = replace(nodes, mtbf=500 * HOUR, repair=0.5 * HOUR)
    losing = replace(failing, device_mtbf=5000 * HOUR)
    preempted = replace(losing, preempted=24 * HOUR)
    return {
        "nothing fails": (nodes, Overheads()),
        "a node fails every 500 h, back after 30 min": (failing, Overheads()),
        "and a GPU every 5,000 h, for good": (losing, Overheads()),
        "and a node is preempted every 24 h": (preempted, Overheads()),
        "and writing takes 20 s": (preempted, Overheads(write=20.0)),
        "and starting a job takes 120 s": (preempted, Overheads(start=120.0, write=20.0)),
    }


def figure(name: str, plan: Plan, graph: Graph, nodes: Nodes, overheads: Overheads) -> common.Figure:
    """One scenario; the gate says that all GPU time is accounted for."""
    found = simulation_view.to_json(plan, graph, nodes, overheads)
    jobs = found["jobs"]
    facts = {
        "hours": round(found["makespan_hours"], 2),
        "goodput": round(found["goodput"], 4),
        "training and evaluating alone": round(found["efficiency"], 4),
        "node failures": found["node_failures"],
        "preemptions": found["preemptions"],
        "lost GPUs": found["lost_devices"],
        "jobs": jobs["all"],
        "given up": jobs["failed"],
        "waiting for them": jobs["wait_for_ever"],
    }
    hours = found["device_hours"]
    unexplained = abs(hours["used"] - hours["useful"] - hours["lost"])
    gate = common.Gate("GPU hours neither useful nor lost", round(unexplained, 3), 0.0)
    ratio = found["makespan_hours"] / found["bound_hours"] if found["bound_hours"] else math.nan
    return common.Figure(name, "lower bound", ratio, gates=[gate], facts=facts)


def main(arguments: list[str] | None = None) -> int:
    """Simulate and print."""
    options = common.parser(__doc__ or "").parse_args(arguments)
    seeds = 1 if options.smoke else SEEDS
    with TemporaryDirectory() as scratch:
        root = Path(scratch)
        for split in ("train", "test"):
            lines = (json.dumps({"text": f"{TEXT} {row}", "label": row % 2}) for row in range(ROWS))
            (root / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
        path = root / "study.yaml"
        path.write_text(STUDY.replace("FOLDER", scratch).replace("SEEDS", str(list(range(seeds)))))
        study = open_study(path, [], root / "runs")
        cluster = invented(find_cluster("8xh100"), 128, None)
        plan, graph = study.plan(cluster, 1), study.expansion.graph
        cases = scenarios(Nodes(cluster.nodes, cluster.slots_per_node))
        return common.show(options, [figure(name, plan, graph, *case) for name, case in cases.items()])


if __name__ == "__main__":
    sys.exit(main())
