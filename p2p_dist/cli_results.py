"""Verbs over results that are there: ask, join, compare. `p2p_dist.cli` puts them on the command line."""

import csv
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from p2p_dist.errors import Exit

RUNS_DIR = Annotated[Path, typer.Option(help="Where run folders are kept.", envvar="P2P_DIST_RUNS")]
AS_JSON = Annotated[bool, typer.Option("--json", help="Answer in JSON on standard output.")]


def query(
    sql: Annotated[str, typer.Argument(help="One query over the tables cells, runs, rates, means, histograms and stages (`DESCRIBE cells` shows columns).")],
    study: Annotated[list[str] | None, typer.Option(help="Only these studies. Default: all in the runs folder.")] = None,
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
