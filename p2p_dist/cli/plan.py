"""The verb `plan`."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from p2p_dist.cli.options import (
    AS_JSON,
    CHECKPOINT_EVERY,
    CLUSTER,
    COHORT,
    HARDWARE,
    OVERRIDES,
    PLUGINS,
    RUNS_DIR,
    SIMULATION,
    SLOTS,
    STUDY,
)
from p2p_dist.cli.output import print_json
from p2p_dist.errors import Exit, user_error

if TYPE_CHECKING:
    from p2p_dist.planning.cluster import ClusterSpec
    from p2p_dist.planning.plan import Plan
    from p2p_dist.scheduling.study import Study


REPAIR_MINUTES = 10.0
"""Minutes until a simulated node is back, where nothing is said."""


def plan(
    study: STUDY,
    overrides: OVERRIDES = None,
    runs_dir: RUNS_DIR = Path("runs"),
    plugins: PLUGINS = None,
    cluster: CLUSTER = None,
    nodes: Annotated[
        int | None,
        typer.Option(min=1, help="Plan for this many nodes like those of --cluster.", rich_help_panel=HARDWARE),
    ] = None,
    gpus_per_node: Annotated[
        int | None, typer.Option(min=0, help="Plan for this many GPUs in every node.", rich_help_panel=HARDWARE)
    ] = None,
    slots: SLOTS = None,
    cohort: COHORT = 1,
    simulate: Annotated[
        bool,
        typer.Option(
            "--simulate",
            help="Simulate the whole study, in the scheduler's order, with what fails and is preempted.",
            rich_help_panel=SIMULATION,
        ),
    ] = False,
    mtbf: Annotated[
        float | None,
        typer.Option(
            min=0.001, help="Mean hours between two failures of a node. Default: never.", rich_help_panel=SIMULATION
        ),
    ] = None,
    device_mtbf: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="Mean hours until a device fails, which stays out of use. Default: never.",
            rich_help_panel=SIMULATION,
        ),
    ] = None,
    preempted: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="Mean hours between two preemptions of a node, whose jobs checkpoint first. Default: never.",
            rich_help_panel=SIMULATION,
        ),
    ] = None,
    repair: Annotated[
        float | None,
        typer.Option(min=0, help="Minutes until a node is back. Default: 10.", rich_help_panel=SIMULATION),
    ] = None,
    checkpoint_every: CHECKPOINT_EVERY = 50,
    start_seconds: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Seconds that each attempt at a job takes to start. Default: as assumed.",
            rich_help_panel=SIMULATION,
        ),
    ] = None,
    write_seconds: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Seconds that writing a checkpoint, an adapter or a result takes. Default: 0.",
            rich_help_panel=SIMULATION,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the failures.", rich_help_panel=SIMULATION)] = 0,
    as_json: AS_JSON = False,
) -> int:
    """Show what a study would run, where and how long. Lists its runs, the stages they share, what is done, the
    placement and memory of each model on the cluster, and what can never run there. Times come from finished runs of
    the same model in the runs folder where there are any, else from assumed rates. Needs no torch, writes nothing.
    Exit code 2 when a run can never be."""
    from p2p_dist.planning.cluster import invented
    from p2p_dist.planning.nodes import Nodes
    from p2p_dist.planning.replay import Overheads
    from p2p_dist.report import plan_view, simulation_view
    from p2p_dist.scheduling.study import find_cluster, find_study, open_study

    of_simulation = {
        "--mtbf": mtbf,
        "--device-mtbf": device_mtbf,
        "--preempted": preempted,
        "--repair": repair,
        "--start-seconds": start_seconds,
        "--write-seconds": write_seconds,
    }
    if not simulate and (given := [option for option, value in of_simulation.items() if value is not None]):
        raise user_error("E143", "only a simulation has these options", ", ".join(given), "add --simulate")
    opened = open_study(find_study(study), overrides or [], runs_dir)
    hardware = invented(find_cluster(cluster), nodes, gpus_per_node).side_by_side(slots)
    answer, remaining = described(opened, hardware, cohort)
    if simulate:
        everything = opened.plan(hardware, cohort, anew=True) if opened.runs_done() else remaining
        nodes_ = Nodes(
            hardware.nodes,
            hardware.slots_per_node,
            mtbf=_seconds(mtbf),
            repair=60 * (REPAIR_MINUTES if repair is None else repair),
            seed=seed,
            device_mtbf=_seconds(device_mtbf),
            preempted=_seconds(preempted),
        )
        overheads = Overheads(checkpoint_every, start_seconds, write_seconds or 0.0)
        answer["simulation"] = simulation_view.to_json(everything, opened.expansion.graph, nodes_, overheads)
    if as_json:
        print_json(answer)
    else:
        print(plan_view.text(opened.spec.name, answer))
        if simulate:
            print("", simulation_view.text(answer["simulation"], answer["time"]["assumed"]["device"]), sep="\n")
    return Exit.USAGE if remaining.impossible() else Exit.OK


def _seconds(hours: float | None) -> float:
    """A mean time in seconds; infinite for what never happens."""
    return math.inf if hours is None else hours * 3600


def described(study: "Study", hardware: "ClusterSpec", cohort: int) -> "tuple[dict[str, Any], Plan]":
    """The plan of what is left, and its content as JSON. Raises UserError for a study that can never be."""
    from p2p_dist.report import plan_view
    from p2p_dist.results.collect import no_garbage_collection
    from p2p_dist.scheduling.chat_checks import shown_prompts
    from p2p_dist.scheduling.feasibility import refuse_infeasible
    from p2p_dist.scheduling.other_settings import changes_of
    from p2p_dist.scheduling.row_modes import row_modes

    with no_garbage_collection():
        rows = [counted.to_json() for counted in refuse_infeasible(study)]
        remaining = study.plan(hardware, cohort)
        answer = {**plan_view.to_json(study.expansion, remaining, study.model_names()), "rows": rows}
        answer["row_modes"] = row_modes(study.spec.model, max(training.max_length for training in study.spec.trainings))
        if prompts := shown_prompts(study.spec):
            answer["prompts"] = prompts
        if changes := changes_of(study):
            answer["changes"] = {
                "runs_added": changes.added,
                "runs_removed": changes.removed_runs,
                "settings": changes.settings,
            }
    return answer, remaining
