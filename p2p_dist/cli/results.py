"""Verbs over finished results: query, merge, compare, mirror."""

import csv
import sys
from pathlib import Path
from typing import Annotated

import typer

from p2p_dist.cli.options import AS_JSON, RUNS_DIR, STUDY_OR_RUNS
from p2p_dist.cli.output import print_json
from p2p_dist.cli.run_folders import run_folder
from p2p_dist.errors import Exit, user_error

FOLLOW = 5.0
"""Seconds between two reads of a study that is mirrored while it runs."""


def query(
    sql: Annotated[
        str,
        typer.Argument(
            help="A query over the tables cells, runs, rates, means, histograms and stages (`DESCRIBE cells` lists "
            "columns).",
            metavar="SQL",
        ),
    ],
    study: Annotated[
        list[str] | None, typer.Option(help="Query only this study. Repeatable. Default: all in the runs folder.")
    ] = None,
    runs_dir: RUNS_DIR = Path("runs"),
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the answer as CSV.")] = False,
    as_json: AS_JSON = False,
) -> int:
    """Query the results of all studies in SQL (DuckDB). Reads files and changes none."""
    from p2p_dist.report.table_formats import inert_cell
    from p2p_dist.report.terminal import plain_table
    from p2p_dist.results import query as results

    folders = [run_folder(name, runs_dir).path for name in study or []] or results.studies(runs_dir, [])
    connection, problems = results.open_results(folders)
    answer = results.run(connection, sql)
    head = [column[0] for column in answer.description or ()]
    rows = answer.fetchall()
    for problem in problems:
        print(problem, file=sys.stderr)
    if as_json:
        if repeated := sorted({name for name in head if head.count(name) > 1}):
            fix = f"name each: SELECT ... AS first_{repeated[0]}"
            raise user_error("E510", f"two columns are named {repeated[0]}", "the query", fix)
        print_json([dict(zip(head, row, strict=True)) for row in rows])
    elif as_csv:
        inert = [[inert_cell(value) if isinstance(value, str) else value for value in row] for row in [head, *rows]]
        csv.writer(sys.stdout, lineterminator="\n").writerows(inert)
    else:
        print(plain_table(head, rows))
    return Exit.INTEGRITY if problems else Exit.OK


def merge(
    first: Annotated[Path, typer.Argument(help="Run folder of the study, such as runs/quickstart.", metavar="FIRST")],
    second: Annotated[
        Path, typer.Argument(help="Run folder of the same study from another cluster.", metavar="SECOND")
    ],
    into: Annotated[Path | None, typer.Option(help="A new run folder. Default: complete FIRST from SECOND.")] = None,
    as_json: AS_JSON = False,
) -> int:
    """Join the same study run on two clusters. Where two results differ, both are kept and neither counts (exit code
    3)."""
    from p2p_dist.results import lease
    from p2p_dist.results import merge as joining
    from p2p_dist.results.rundir import RunDir

    target = RunDir(into or first)
    merged = []
    with lease.hold(target.lease):
        for source in (first, second) if into else (second,):
            merged.append(joining.add(RunDir(source), target))
    problems = [problem for part in merged for problem in (*part.conflicts, *part.left_out)]
    for problem in problems:
        print(problem, file=sys.stderr)
    if as_json:
        print_json([part.to_json() for part in merged])
    else:
        added, equal, conflicts = (
            sum(len(part) for part in parts)
            for parts in zip(*((p.added, p.equal, p.conflicts) for p in merged), strict=True)
        )
        print(f"{target.path}: {added} stages added, {equal} in both and equal, {conflicts} in conflict")
    return Exit.INTEGRITY if problems else Exit.OK


def compare(
    first: Annotated[str, typer.Argument(help="A study in the runs folder, or a run folder.", metavar="FIRST")],
    second: Annotated[str, typer.Argument(help="The study to compare it with.", metavar="SECOND")],
    runs_dir: RUNS_DIR = Path("runs"),
    as_json: AS_JSON = False,
) -> int:
    """Compare two studies cell by cell. Tests are paired where both answered the same rows."""
    from p2p_dist.report import compare_view
    from p2p_dist.report.study_data import StudyData
    from p2p_dist.report.terminal import plain_table
    from p2p_dist.results.collect import read_study

    folders = [run_folder(name, runs_dir) for name in (first, second)]
    left, right = (StudyData(folder, read_study(folder, alive=False), {}) for folder in folders)
    comparison = compare_view.to_json(left, right)
    if as_json:
        print_json(comparison)
    else:
        print(*compare_view.settings_lines(comparison, first, second), "", sep="\n")
        print(plain_table(*compare_view.table(comparison)))
        for side, name in (("only_first", first), ("only_second", second)):
            print(f"{len(comparison[side])} evaluated runs are only in {name}")
    return Exit.OK


def mirror(
    study: STUDY_OR_RUNS,
    to: Annotated[
        str, typer.Option(help="tensorboard, wandb (offline), mlflow or trackio; its package must be installed.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="An empty folder to write to. Default: mirrors/TRACKER in the run folder.")
    ] = None,
    runs_dir: RUNS_DIR = Path("runs"),
    live: Annotated[
        bool,
        typer.Option("--live", help="Add every run as it finishes, until all are done or failed, or Ctrl-C."),
    ] = False,
) -> int:
    """Export curves and rates to an experiment tracker. Writes to this machine only and sends nothing."""
    from p2p_dist import registry
    from p2p_dist.report.status_view import read_state
    from p2p_dist.results import mirror as mirrors

    folder = run_folder(study, runs_dir)
    target = out or folder.path / "mirrors" / to
    tracker = registry.load("mirrors", to)
    count = (
        mirrors.follow(folder, lambda: read_state(folder)[0], tracker, target, FOLLOW)
        if live
        else mirrors.copy(folder, read_state(folder)[0], tracker, target)
    )
    print(f"{target}: {count} runs")
    return Exit.OK
