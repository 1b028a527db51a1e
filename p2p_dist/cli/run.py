"""The verb `run`."""

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
    SLOTS,
    STUDY,
)
from p2p_dist.errors import Exit
from p2p_dist.report.text_columns import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from p2p_dist.scheduling.execute import Launch
    from p2p_dist.scheduling.state import State
    from p2p_dist.scheduling.study import Study


_SHOWN = 5
"""Stages that are named after a failure; the others are counted."""


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
    slots: SLOTS = None,
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
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="Accept that results of other settings in the run folder leave its report.",
            rich_help_panel=JOBS,
        ),
    ] = False,
    private: Annotated[
        bool,
        typer.Option(
            "--private",
            help="Close the run folder to other users. Default: permissions by the umask.",
            rich_help_panel=JOBS,
        ),
    ] = False,
    as_json: AS_JSON = False,
) -> int:
    """Run what is missing of a study and write its report. The same command resumes a stopped study, and does nothing
    when all is done."""
    from rich.console import Console

    from p2p_dist.scheduling.execute import Launch
    from p2p_dist.scheduling.study import find_cluster

    console = Console(stderr=True)
    opened = _open(study, overrides or [], runs_dir, console)
    launch = Launch(
        backend,
        find_cluster(cluster, nodes, slots),
        slots,
        cohort,
        checkpoint_every,
        stall_after,
        address,
        tuple(allow_change or ()),
        share,
        not fresh_workers,
        rows_only,
        replace,
    )
    failed = carry_out(opened, launch, console, private)
    return _finish(opened, failed, share, rows_only, as_json)


def carry_out(study: "Study", launch: "Launch", console: "Console", private: bool = False) -> bool:
    """Check a study, run what is missing of it and print the jobs that failed. Returns True if any did. Raises
    UserError."""
    from p2p_dist.config.plugin_files import left_out_lines
    from p2p_dist.scheduling.execute import execute
    from p2p_dist.scheduling.prepare import close_to_others, settle

    for line in left_out_lines(one.reason for one in study.expansion.left_out):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    _check(study, launch.replace, launch.share, console)
    if private:
        close_to_others(study.folder)
    jobs = study.plan(launch.cluster, launch.cohort, rows_only=launch.rows_only).jobs
    if not jobs:
        settle(study, launch.replace)
        return False
    runs = f"{study.runs_done()} of {len(study.expansion.runs)} runs done"
    console.print(f"{study.spec.name}: {runs}, {counted(len(jobs), 'job')} to do", highlight=False)
    ended = execute(study, launch, console)
    _print_failures(study, ended)
    return bool(ended.failed)


def _open(study: str, overrides: "Sequence[str]", runs_dir: Path, console: "Console") -> "Study":
    from p2p_dist.scheduling.study import find_study, open_study

    path = find_study(study)
    console.print(f"{path}: reading the study, its rows and its models", highlight=False, soft_wrap=True, markup=False)
    return open_study(path, overrides, runs_dir)


def _check(study: "Study", replace: bool, share: bool, console: "Console") -> None:
    """Refuse a study that can never be, or that is not the one of its folder; set damaged results aside."""
    from p2p_dist.scheduling.feasibility import refuse_infeasible
    from p2p_dist.scheduling.other_settings import refuse_other_settings
    from p2p_dist.scheduling.study import set_damaged_aside

    refuse_infeasible(study)
    if note := refuse_other_settings(study, replace, share):
        console.print(note, highlight=False, soft_wrap=True, markup=False)
    for problem in set_damaged_aside(study):
        print(problem, file=sys.stderr)


def _print_failures(study: "Study", ended: "State") -> None:
    """Every failed job with the end of its log, and what was not run because of it."""
    from p2p_dist.planning.jobs import dependents
    from p2p_dist.scheduling.execute import titles_of_study

    titles = titles_of_study(study)
    for failure in ended.failed:
        print(
            f"error[E400]: job {failure.job.lead} failed: {failure.reason}; {failure.log} ends with",
            *failure.tail,
            sep="\n  ",
            file=sys.stderr,
        )
        if blocked := dependents(failure.job.stages, ended.blocked):
            shown = "; ".join(f"{titles.get(id_, id_)} ({id_})" for id_ in blocked[:_SHOWN])
            more = f"; and {len(blocked) - _SHOWN} more" if len(blocked) > _SHOWN else ""
            print(f"  not run, because they need it: {shown}{more}", file=sys.stderr)


def _finish(study: "Study", failed: bool, share: bool, rows_only: bool, as_json: bool) -> int:
    """Show the rows or write the report, and return the exit code."""
    from p2p_dist.cli.data import print_rows
    from p2p_dist.cli.status import write_and_print
    from p2p_dist.scheduling.claims import meet

    if rows_only:
        print_rows(study, None, False, as_json)
        return Exit.SOME_FAILED if failed else Exit.OK
    with meet(study.folder) if share else nullcontext():  # several controllers may finish at the same moment
        write_and_print(study.folder, as_json)
    done, total = study.runs_done(), len(study.expansion.runs)
    print(f"{done} of {total} done", file=sys.stderr)
    return Exit.OK if done == total else Exit.SOME_FAILED
