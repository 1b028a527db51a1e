"""Verbs over results that are there: ask, join, compare."""

import csv
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from p2p_dist.cli.options import AS_JSON, RUNS_DIR
from p2p_dist.errors import Exit

FOLLOW = 5.0
"""Seconds between two looks at a study that is mirrored while it runs."""


def query(
    sql: Annotated[
        str,
        typer.Argument(
            help="One query over the tables cells, runs, rates, means, histograms and stages (`DESCRIBE cells` shows "
            "columns)."
        ),
    ],
    study: Annotated[
        list[str] | None, typer.Option(help="Only these studies. Default: all in the runs folder.")
    ] = None,
    runs_dir: RUNS_DIR = Path("runs"),
    as_csv: Annotated[bool, typer.Option("--csv", help="Answer in CSV.")] = False,
    as_json: AS_JSON = False,
) -> int:
    """Ask the results of all studies in SQL (DuckDB). Files are only read."""
    from p2p_dist.report.terminal import plain_table
    from p2p_dist.results import query as results

    connection, problems = results.open_results(results.studies(runs_dir, study or []))
    answer = results.run(connection, sql)
    head = [column[0] for column in answer.description or ()]
    rows = answer.fetchall()
    for problem in problems:
        print(problem, file=sys.stderr)
    if as_json:
        print(json.dumps([dict(zip(head, row, strict=True)) for row in rows], indent=1, default=str))
    elif as_csv:
        csv.writer(sys.stdout, lineterminator="\n").writerows([head, *rows])
    else:
        print(plain_table(head, rows))
    return Exit.INTEGRITY if problems else Exit.OK


def merge(
    first: Annotated[Path, typer.Argument(help="Run folder of the study, such as runs/quickstart.")],
    second: Annotated[Path, typer.Argument(help="Run folder of the same study from elsewhere.")],
    into: Annotated[
        Path | None, typer.Option(help="A run folder to make. Default: FIRST is completed from SECOND.")
    ] = None,
    as_json: AS_JSON = False,
) -> int:
    """Join the same study run on two clusters. Where they disagree both results are kept and neither is counted (exit
    code 3)."""
    from p2p_dist.results import lease
    from p2p_dist.results import merge as joining
    from p2p_dist.results.rundir import RunDir

    target = RunDir(into or first)
    done = []
    with lease.hold(target.lease):
        for source in (first, second) if into else (second,):
            done.append(joining.add(RunDir(source), target))
    troubles = [problem for part in done for problem in (*part.conflicts, *part.left_out)]
    for problem in troubles:
        print(problem, file=sys.stderr)
    if as_json:
        print(json.dumps([part.to_json() for part in done], indent=1))
    else:
        added, equal, conflicts = (
            sum(len(part) for part in parts)
            for parts in zip(*((p.added, p.equal, p.conflicts) for p in done), strict=True)
        )
        print(f"{target.path}: {added} stages added, {equal} in both and equal, {conflicts} in conflict")
    return Exit.INTEGRITY if troubles else Exit.OK


def compare(
    first: Annotated[str, typer.Argument(help="A study in the runs folder, or a run folder.")],
    second: Annotated[str, typer.Argument(help="The other one.")],
    runs_dir: RUNS_DIR = Path("runs"),
    as_json: AS_JSON = False,
) -> int:
    """Set two studies side by side, cell by cell, with paired tests where both answered the same rows."""
    from p2p_dist.report import compare_view
    from p2p_dist.report.study_data import StudyData
    from p2p_dist.report.terminal import plain_table
    from p2p_dist.results.collect import read_study
    from p2p_dist.results.rundir import RunDir

    folders = [RunDir(Path(name)) if Path(name).is_dir() else RunDir(runs_dir / name) for name in (first, second)]
    left, right = (StudyData(folder, read_study(folder, alive=False), {}) for folder in folders)
    found = compare_view.facts(left, right)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        print(plain_table(*compare_view.table(found)))
        for side, name in (("only_first", first), ("only_second", second)):
            print(f"{len(found[side])} evaluated runs are in {name} alone")
    return Exit.OK


def mirror(
    study: Annotated[str, typer.Argument(help="A study in the runs folder, or a run folder.")],
    to: Annotated[
        str, typer.Option(help="tensorboard, wandb (offline), mlflow or trackio; its package has to be installed.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="An empty folder to write. Default: mirrors/NAME in the run folder.")
    ] = None,
    runs_dir: RUNS_DIR = Path("runs"),
    live: Annotated[
        bool,
        typer.Option(
            "--live", help="Go on until all runs are done or failed, or Ctrl-C; every run is added when it is done."
        ),
    ] = False,
) -> int:
    """Copy curves and rates for another dashboard, from the study's files and onto this machine only."""
    from p2p_dist import registry
    from p2p_dist.report.status_view import look
    from p2p_dist.results import mirror as mirrors
    from p2p_dist.results.rundir import RunDir

    folder = RunDir(Path(study)) if Path(study).is_dir() else RunDir(runs_dir / study)
    place = out or folder.path / "mirrors" / to
    kind = registry.load("mirrors", to)
    count = (
        mirrors.follow(folder, lambda: look(folder)[0], kind, place, FOLLOW)
        if live
        else mirrors.copy(folder, look(folder)[0], kind, place)
    )
    print(f"{place}: {count} runs")
    return Exit.OK
