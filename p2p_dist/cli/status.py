"""The verbs `status` and `report`."""

import gc
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from p2p_dist.cli.options import AS_JSON, RUNS_DIR, STUDY_OR_RUNS
from p2p_dist.cli.output import print_json
from p2p_dist.cli.run_folders import run_folder
from p2p_dist.errors import Exit

if TYPE_CHECKING:
    from p2p_dist.results.rundir import RunDir


def status(
    study: STUDY_OR_RUNS,
    runs_dir: RUNS_DIR = Path("runs"),
    live: Annotated[bool, typer.Option("--live", help="Refresh until all runs are done or failed, or Ctrl-C.")] = False,
    as_json: AS_JSON = False,
) -> int:
    """Show the progress of a study. Reads its files alone, so it works while the study runs and after a crash."""
    from p2p_dist.report import status_view
    from p2p_dist.results.progress import read_progress

    folder = run_folder(study, runs_dir)
    if live:
        status_view.follow(folder)
        return Exit.OK
    state, owner = status_view.read_state(folder) if as_json else read_progress(folder)
    if as_json:
        print_json(status_view.to_json(state, owner))
    else:
        print(status_view.text(state, owner))
    return Exit.INTEGRITY if state.problems else Exit.OK


def report(study: STUDY_OR_RUNS, runs_dir: RUNS_DIR = Path("runs"), as_json: AS_JSON = False) -> int:
    """Write a study's report and print its table. Uses the results so far; the study need not be finished."""
    write_and_print(run_folder(study, runs_dir), as_json)
    return Exit.OK


def write_and_print(folder: "RunDir", as_json: bool) -> None:
    """Write the report of a run folder, and print its table or its content as JSON."""
    from p2p_dist.report import run_columns, status_view
    from p2p_dist.report.page import write_report
    from p2p_dist.scheduling.progress import titles_of

    state, owner = status_view.read_state(folder)
    gc.freeze()  # what was read is kept to the end: looking through it for garbage takes a tenth of a large report
    titles = titles_of(state.resolved["runs"], {stage["id"]: stage["kind"] for stage in state.resolved["stages"]})
    page = write_report(folder, state, titles)
    for problem in (*state.problems, *state.failed_screenings()):
        print(problem, file=sys.stderr)
    if as_json:
        print_json({**status_view.to_json(state, owner), "report": str(page)})
        return
    from rich.console import Console

    from p2p_dist.report.terminal import rich_table

    Console().print(rich_table(run_columns.axes(state.runs), run_columns.rows(state.runs)))
    print(f"report: {page}")
