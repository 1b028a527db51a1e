"""Verbs that plan, run and report a study."""

import json
import math
import sys
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from p2p_dist.cli.options import AS_JSON, CHECKPOINT_EVERY, CLUSTER, COHORT, OVERRIDES, RUNS_DIR, STUDY
from p2p_dist.errors import Exit, user_error

if TYPE_CHECKING:
    from p2p_dist.results.rundir import RunDir


def plan(
    study: STUDY,
    overrides: OVERRIDES = None,
    runs_dir: RUNS_DIR = Path("runs"),
    cluster: CLUSTER = None,
    nodes: Annotated[
        int | None, typer.Option(min=1, help="Invent a cluster: so many nodes like those of --cluster.")
    ] = None,
    gpus_per_node: Annotated[
        int | None, typer.Option(min=0, help="Invent a cluster: so many GPUs in every node.")
    ] = None,
    cohort: COHORT = 1,
    simulate: Annotated[
        bool,
        typer.Option(
            "--simulate", help="Carry the whole study out on paper, in the scheduler's order, while nodes fail."
        ),
    ] = False,
    mtbf: Annotated[
        float | None,
        typer.Option(min=0.001, help="--simulate: hours between two failures of a node, on average. Default: never."),
    ] = None,
    repair: Annotated[float, typer.Option(min=0, help="--simulate: minutes until a node that failed is back.")] = 10.0,
    checkpoint_every: CHECKPOINT_EVERY = 50,
    start_seconds: Annotated[
        float | None,
        typer.Option(min=0, help="--simulate: what each attempt at a job takes to start. Default: as assumed."),
    ] = None,
    seed: Annotated[int, typer.Option(help="--simulate: of the failures.")] = 0,
    as_json: AS_JSON = False,
) -> int:
    """Show what a study would do: its runs, the stages they share, what is done, where each model goes on the cluster
    with what memory, how long the rest would take, and what can never run there. Times are those of finished runs of
    the same model in the runs folder, as far as there are such."""
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


class Change(StrEnum):
    """What may differ from the circumstances a checkpoint was made under, when the user says so."""

    TORCH = "torch"
    TRANSFORMERS = "transformers"
    DTYPE = "dtype"
    DEVICE = "device"


def run(
    study: STUDY,
    overrides: OVERRIDES = None,
    runs_dir: RUNS_DIR = Path("runs"),
    backend: Annotated[
        str, typer.Option(help="ray (an instance of its own on this machine) or local (plain processes). Same results.")
    ] = "ray",
    cluster: CLUSTER = None,
    slots: Annotated[
        int | None, typer.Option(min=1, help="Workers side by side. Default: one per GPU, or one with all cores.")
    ] = None,
    cohort: COHORT = 1,
    checkpoint_every: CHECKPOINT_EVERY = 50,
    allow_change: Annotated[
        list[Change] | None,
        typer.Option(help="Go on from checkpoints made with another; it is recorded. Repeat for several."),
    ] = None,
    stall_after: Annotated[
        float, typer.Option(min=1, help="Seconds after which a job whose files do not move is stopped and tried again.")
    ] = 1800,
    address: Annotated[
        str | None, typer.Option(help="A Ray cluster that runs already, HOST:PORT. Default: this machine alone.")
    ] = None,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes like this one in that cluster; waited for.")] = 1,
    share: Annotated[
        bool, typer.Option("--share", help="Take jobs one by one beside others that do the same, until all are done.")
    ] = False,
    fresh_workers: Annotated[
        bool,
        typer.Option(
            "--fresh-workers",
            help="A process of its own for every job. Default: workers stay, with their base loaded. Same results.",
        ),
    ] = False,
    rows_only: Annotated[
        bool,
        typer.Option(
            "--rows-only",
            help="Stop when the rows are there that models would be trained on, screened ones too, and show them.",
        ),
    ] = False,
    as_json: AS_JSON = False,
) -> int:
    """Run what is missing of a study, then collect and report. The same command again continues or does nothing."""
    from rich.console import Console

    from p2p_dist.scheduling.claims import meet
    from p2p_dist.scheduling.execute import Launch, execute
    from p2p_dist.scheduling.prepare import settle
    from p2p_dist.scheduling.study import find_cluster, find_study, open_study, set_damaged_aside

    path = find_study(study)
    opened = open_study(path, overrides or [], runs_dir)
    for problem in set_damaged_aside(opened):
        print(problem, file=sys.stderr)
    console = Console(stderr=True)
    total = len(opened.expansion.runs)
    failed = []
    hardware = find_cluster(cluster, nodes)
    if jobs := opened.plan(hardware, cohort, rows_only=rows_only).jobs:
        console.print(
            f"{opened.spec.name}: {opened.runs_done()} of {total} runs done, {len(jobs)} jobs to do", highlight=False
        )
        changes = tuple(allow_change or ())
        launch = Launch(
            backend,
            hardware,
            slots,
            cohort,
            checkpoint_every,
            stall_after,
            address,
            changes,
            share,
            not fresh_workers,
            rows_only,
        )
        failed = execute(opened, path, launch, console).failed
    else:
        settle(opened, path)
    for failure in failed:
        print(
            f"error[E400]: job {failure.job.lead} failed: {failure.reason}; {failure.log} ends with",
            *failure.tail,
            sep="\n  ",
            file=sys.stderr,
        )
    if rows_only:
        from p2p_dist.cli.data import print_rows

        print_rows(opened, None, False, as_json)
        return Exit.SOME_FAILED if failed else Exit.OK
    with meet(opened.folder) if share else nullcontext():  # several controllers end at the same moment
        _report(opened.folder, as_json)
    done = opened.runs_done()
    print(f"{done} of {total} done", file=sys.stderr)
    return Exit.OK if done == total else Exit.SOME_FAILED


def status(
    study: STUDY,
    runs_dir: RUNS_DIR = Path("runs"),
    live: Annotated[
        bool, typer.Option("--live", help="Keep showing it until all runs are done or failed, or Ctrl-C.")
    ] = False,
    as_json: AS_JSON = False,
) -> int:
    """Show how far a study is, from its files alone; works while it runs and after everything has died."""
    from p2p_dist.report import status_view

    folder = _folder_of(study, runs_dir)
    if live:
        status_view.follow(folder)
        return Exit.OK
    found, who = status_view.look(folder)
    print(json.dumps(status_view.facts(found, who), indent=1) if as_json else status_view.text(found, who))
    return Exit.INTEGRITY if found.problems else Exit.OK


def report(study: STUDY, runs_dir: RUNS_DIR = Path("runs"), as_json: AS_JSON = False) -> int:
    """Write `report/` of a study from what is there, finished or not, and print its table."""
    _report(_folder_of(study, runs_dir), as_json)
    return Exit.OK


def _folder_of(study: str, runs_dir: Path) -> "RunDir":
    """The run folder that a study file, a study name or a run folder means."""
    from p2p_dist.config import yaml_strict
    from p2p_dist.results.rundir import RunDir
    from p2p_dist.scheduling.study import find_study

    if Path(study).is_dir():
        return RunDir(Path(study))
    path = find_study(study)
    if path.is_file():
        return RunDir(runs_dir / str(yaml_strict.read(path).data.get("name", "")))
    return RunDir(runs_dir / study)


def _report(folder: "RunDir", as_json: bool) -> None:
    from p2p_dist.report import run_columns, status_view
    from p2p_dist.report.page import write_report
    from p2p_dist.scheduling.progress import titles_of

    found, who = status_view.look(folder)
    page = write_report(folder, found, titles_of(json.loads(folder.resolved.read_text())["runs"]))
    for problem in found.problems:
        print(problem, file=sys.stderr)
    if as_json:
        print(json.dumps({**status_view.facts(found, who), "report": str(page)}, indent=1))
        return
    from rich.console import Console

    from p2p_dist.report.terminal import rich_table

    Console().print(rich_table(run_columns.axes(found.runs), run_columns.rows(found.runs)))
    print(f"report: {page}")
