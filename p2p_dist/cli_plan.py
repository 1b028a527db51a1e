"""The verb `plan`. `p2p_dist.cli` puts it on the command line."""

import json
import math
from pathlib import Path
from typing import Annotated

import typer

from p2p_dist.cli_results import AS_JSON, RUNS_DIR
from p2p_dist.cli_submit import OVERRIDES, STUDY
from p2p_dist.errors import Exit, user_error

CLUSTER = Annotated[str | None, typer.Option(help="Hardware to plan for: a file, or one of `p2p-dist list clusters`. Default: this machine.")]
COHORT = Annotated[int, typer.Option(min=1, help="Trainings on the same base to join in one worker, as far as they fit.")]
CHECKPOINT_EVERY = Annotated[int, typer.Option(min=1, help="Training steps between two checkpoints of a run.")]


def plan(
    study: STUDY,
    overrides: OVERRIDES = None,
    runs_dir: RUNS_DIR = Path("runs"),
    cluster: CLUSTER = None,
    nodes: Annotated[int | None, typer.Option(min=1, help="Invent a cluster: so many nodes like those of --cluster.")] = None,
    gpus_per_node: Annotated[int | None, typer.Option(min=0, help="Invent a cluster: so many GPUs in every node.")] = None,
    cohort: COHORT = 1,
    simulate: Annotated[bool, typer.Option("--simulate", help="Carry the whole study out on paper, in the scheduler's order, while nodes fail.")] = False,
    mtbf: Annotated[float | None, typer.Option(min=0.001, help="--simulate: hours between two failures of a node, on average. Default: never.")] = None,
    repair: Annotated[float, typer.Option(min=0, help="--simulate: minutes until a node that failed is back.")] = 10.0,
    checkpoint_every: CHECKPOINT_EVERY = 50,
    start_seconds: Annotated[float | None, typer.Option(min=0, help="--simulate: what each attempt at a job takes to start. Default: as assumed.")] = None,
    seed: Annotated[int, typer.Option(help="--simulate: of the failures.")] = 0,
    as_json: AS_JSON = False,
) -> int:
    """Show what a study would do: its runs, the stages they share, what is done, where each model goes on the cluster with
    what memory, how long the rest would take, and what can never run there. Times are those of finished runs of the same model in
    the runs folder, as far as there are such."""
    from p2p_dist.planning.cluster import invented
    from p2p_dist.planning.nodes import Nodes
    from p2p_dist.report import plan_view, simulation_view
    from p2p_dist.scheduling.study import find_cluster, find_study, open_study

    if mtbf is not None and not simulate:
        raise user_error("E143", "nodes only fail in a simulation", "--mtbf", "add --simulate")
    opened = open_study(find_study(study), overrides or [], runs_dir)
    hardware = invented(find_cluster(cluster), nodes, gpus_per_node)
    graph, done = opened.expansion.graph, opened.folder.done(opened.expansion.graph)
    found = opened.plan(hardware, cohort)
    facts = plan_view.facts(opened.expansion, done, found, opened.model_names())
    if simulate:
        whole = opened.plan(hardware, cohort, anew=True) if done else found
        there = Nodes(hardware.nodes, hardware.slots_per_node, mtbf * 3600 if mtbf else math.inf, repair * 60, seed)
        facts["simulation"] = simulation_view.facts(whole, graph, there, checkpoint_every, start_seconds)
    print(json.dumps(facts, indent=1) if as_json else plan_view.text(opened.spec.name, facts))
    if simulate and not as_json:
        print("", simulation_view.text(facts["simulation"], facts["time"]["assumed"]["device"]), sep="\n")
    return Exit.OK
