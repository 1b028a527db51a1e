"""Verbs that plan, run and report a study."""

import json
import math
import sys
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from p2p_dist.cli.options import (
    AS_JSON,
    CHECKPOINT_EVERY,
    CLUSTER,
    COHORT,
    HARDWARE,
    JOBS,
    OVERRIDES,
    PLUGINS,
    RUNS_DIR,
    SIMULATION,
    STUDY,
    STUDY_OR_RUNS,
)
from p2p_dist.cli.output import print_json
from p2p_dist.cli.run_folders import run_folder
from p2p_dist.errors import Exit, user_error

if TYPE_CHECKING:
    from p2p_dist.results.rundir import RunDir


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
    cohort: COHORT = 1,
    simulate: Annotated[
        bool,
        typer.Option(
            "--simulate",
            help="Simulate the whole study, in the scheduler's order, with failing nodes.",
            rich_help_panel=SIMULATION,
        ),
    ] = False,
    mtbf: Annotated[
        float | None,
        typer.Option(
            min=0.001, help="Mean hours between two failures of a node. Default: never.", rich_help_panel=SIMULATION
        ),
    ] = None,
    repair: Annotated[
        float, typer.Option(min=0, help="Minutes until a failed node is back.", rich_help_panel=SIMULATION)
    ] = 10.0,
    checkpoint_every: CHECKPOINT_EVERY = 50,
    start_seconds: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Seconds that each attempt at a job takes to start. Default: as assumed.",
            rich_help_panel=SIMULATION,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the failures.", rich_help_panel=SIMULATION)] = 0,
    as_json: AS_JSON = False,
) -> int:
    """Show what a study would run, where and how long. Lists its runs, the stages they share, what is done, the
    placement and memory of each model on the cluster, and what can never run there. Times come from finished runs of
    the same model in the runs folder where there are any, else from assumed rates. Needs no torch, writes nothing."""
    from p2p_dist.planning.cluster import invented
    from p2p_dist.planning.nodes import Nodes
    from p2p_dist.report import plan_view, simulation_view
    from p2p_dist.scheduling.study import find_cluster, find_study, open_study

    if mtbf is not None and not simulate:
        raise user_error("E143", "nodes fail only in a simulation", "--mtbf", "add --simulate")
    opened = open_study(find_study(study), overrides or [], runs_dir)
    hardware = invented(find_cluster(cluster), nodes, gpus_per_node)
    graph, done = opened.expansion.graph, opened.folder.done(opened.expansion.graph)
    remaining = opened.plan(hardware, cohort)
    facts = plan_view.facts(opened.expansion, done, remaining, opened.model_names())
    if simulate:
        everything = opened.plan(hardware, cohort, anew=True) if done else remaining
        nodes_ = Nodes(hardware.nodes, hardware.slots_per_node, mtbf * 3600 if mtbf else math.inf, repair * 60, seed)
        facts["simulation"] = simulation_view.facts(everything, graph, nodes_, checkpoint_every, start_seconds)
    if as_json:
        print_json(facts)
        return Exit.OK
    print(plan_view.text(opened.spec.name, facts))
    if simulate:
        print("", simulation_view.text(facts["simulation"], facts["time"]["assumed"]["device"]), sep="\n")
    return Exit.OK


class Change(StrEnum):
    """The parts of a checkpoint's fingerprint that may differ on a resume, if the user allows it."""

    TORCH = "torch"
    TRANSFORMERS = "transformers"
    DTYPE = "dtype"
    DEVICE = "device"


def run(
    study: STUDY,
    overrides: OVERRIDES = None,
    runs_dir: RUNS_DIR = Path("runs"),
    plugins: PLUGINS = None,
    backend: Annotated[
        str,
        typer.Option(
            help="ray (its own on this machine) or local (processes). Same results.", rich_help_panel=HARDWARE
        ),
    ] = "ray",
    cluster: CLUSTER = None,
    slots: Annotated[
        int | None,
        typer.Option(
            min=1, help="Parallel workers. Default: one per GPU, or one with all cores.", rich_help_panel=HARDWARE
        ),
    ] = None,
    cohort: COHORT = 1,
    checkpoint_every: CHECKPOINT_EVERY = 50,
    allow_change: Annotated[
        list[Change] | None,
        typer.Option(
            help="Resume although this differs from the checkpoint; recorded in the result. Repeatable.",
            rich_help_panel=JOBS,
        ),
    ] = None,
    stall_after: Annotated[
        float,
        typer.Option(min=1, help="Restart a job that has written nothing for this many seconds.", rich_help_panel=JOBS),
    ] = 1800,
    address: Annotated[
        str | None,
        typer.Option(help="A running Ray cluster, HOST:PORT. Default: this machine alone.", rich_help_panel=HARDWARE),
    ] = None,
    nodes: Annotated[
        int, typer.Option(min=1, help="Nodes of that cluster; the study waits for them.", rich_help_panel=HARDWARE)
    ] = 1,
    share: Annotated[
        bool,
        typer.Option(
            "--share",
            help="Share the study's jobs with other controllers that run this command.",
            rich_help_panel=HARDWARE,
        ),
    ] = False,
    fresh_workers: Annotated[
        bool,
        typer.Option(
            "--fresh-workers",
            help="Start a process for every job. Default: workers keep their base. Same results.",
            rich_help_panel=JOBS,
        ),
    ] = False,
    rows_only: Annotated[
        bool,
        typer.Option(
            "--rows-only",
            help="Build and show the training rows (screened ones included), then stop.",
            rich_help_panel=JOBS,
        ),
    ] = False,
    as_json: AS_JSON = False,
) -> int:
    """Run what is missing of a study and write its report. The same command resumes a stopped study, and does nothing
    when all is done."""
    from rich.console import Console

    from p2p_dist.scheduling.claims import meet
    from p2p_dist.scheduling.execute import Launch, execute
    from p2p_dist.scheduling.prepare import settle
    from p2p_dist.scheduling.study import find_cluster, find_study, open_study, set_damaged_aside

    console = Console(stderr=True)
    path = find_study(study)
    console.print(f"{path}: reading the study, its rows and its models", highlight=False, soft_wrap=True)
    opened = open_study(path, overrides or [], runs_dir)
    for problem in set_damaged_aside(opened):
        print(problem, file=sys.stderr)
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
    with meet(opened.folder) if share else nullcontext():  # several controllers may finish at the same moment
        _report(opened.folder, as_json)
    done = opened.runs_done()
    print(f"{done} of {total} done", file=sys.stderr)
    return Exit.OK if done == total else Exit.SOME_FAILED


def status(
    study: STUDY_OR_RUNS,
    runs_dir: RUNS_DIR = Path("runs"),
    live: Annotated[bool, typer.Option("--live", help="Refresh until all runs are done or failed, or Ctrl-C.")] = False,
    as_json: AS_JSON = False,
) -> int:
    """Show the progress of a study. Reads its files alone, so it works while the study runs and after a crash."""
    from p2p_dist.report import status_view

    folder = run_folder(study, runs_dir)
    if live:
        status_view.follow(folder)
        return Exit.OK
    state, owner = status_view.look(folder)
    if as_json:
        print_json(status_view.facts(state, owner))
    else:
        print(status_view.text(state, owner))
    return Exit.INTEGRITY if state.problems else Exit.OK


def report(study: STUDY_OR_RUNS, runs_dir: RUNS_DIR = Path("runs"), as_json: AS_JSON = False) -> int:
    """Write a study's report and print its table. Uses the results so far; the study need not be finished."""
    _report(run_folder(study, runs_dir), as_json)
    return Exit.OK


def _report(folder: "RunDir", as_json: bool) -> None:
    from p2p_dist.report import run_columns, status_view
    from p2p_dist.report.page import write_report
    from p2p_dist.scheduling.progress import titles_of

    state, owner = status_view.look(folder)
    resolved = json.loads(folder.resolved.read_text())
    titles = titles_of(resolved["runs"], {stage["id"]: stage["kind"] for stage in resolved["stages"]})
    page = write_report(folder, state, titles)
    for problem in state.problems:
        print(problem, file=sys.stderr)
    if as_json:
        print_json({**status_view.facts(state, owner), "report": str(page)})
        return
    from rich.console import Console

    from p2p_dist.report.terminal import rich_table

    Console().print(rich_table(run_columns.axes(state.runs), run_columns.rows(state.runs)))
    print(f"report: {page}")
