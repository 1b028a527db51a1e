"""Tables for a terminal: a study's rates in 80 columns (intervals are in the report), and plain rows of any width."""

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from p2p_dist.errors import printable
from p2p_dist.report.run_columns import COLUMNS, TableRow
from p2p_dist.results.statistics import Excess, Interval

ROOM = 18
"""Letters that a label may have in a table of 80 columns."""
MOST_RUNS = 200
"""Runs of a table; more are not read in a terminal, and each costs a millisecond."""


def rich_table(axes: Sequence[str], rows: Sequence[TableRow]) -> Table:
    """A line for each of the first MOST_RUNS runs. Labels that are too long for a column have a number there, and are
    written out below."""
    table = Table(
        title="percent, count below; intervals and what the columns mean are in the report",
        title_justify="left",
        padding=(0, 1, 0, 0),
        box=None,
    )
    for axis in axes:
        table.add_column(axis, overflow="fold")  # a cut name may be that of another line
    for column in COLUMNS:
        if column.short is not None:
            table.add_column(column.short, justify="right")
    shown = rows[:MOST_RUNS]
    short = _numbered([label for row in shown for label in row.labels])
    for row in shown:
        labels = [escape(printable(short.get(label, label))) for label in row.labels]
        warned = [
            f"{label}\ncollapsed" if axis == "defense" and row.collapsed else label
            for axis, label in zip(axes, labels, strict=True)
        ]
        cells = (cell for column, cell in zip(COLUMNS, row.cells, strict=True) if column.short is not None)
        table.add_row(*warned, *map(_cell, cells))
    below = [f"{name}: {label}" for label, name in short.items()]
    if len(shown) < len(rows):
        cut = f"the first {len(shown):,} of {len(rows):,} runs; all are in the report and its tables/runs.csv"
        below.insert(0, cut)
    if any(row.collapsed for row in shown):
        below.append(
            "collapsed: nearly every clean row gets one answer; CA and ASR of such a model say nothing about its "
            "defense"
        )
    table.caption, table.caption_justify = escape(printable("\n".join(below), keep="\n")) or None, "left"
    return table


def _numbered(labels: Sequence[str]) -> dict[str, str]:
    """For every label that its options make too long: its name and a number."""
    long = [label for label in dict.fromkeys(labels) if len(label) > ROOM and "(" in label]
    return {label: f"{label.partition('(')[0]} #{number}" for number, label in enumerate(long, 1)}


def _cell(cell: Interval | Excess | None) -> str:
    if cell is None:
        return "–"
    sign = "+" if isinstance(cell, Excess) else ""
    return f"{100 * cell.rate:{sign}.1f}\n{cell.k:{sign}}/{cell.n}"


def plain_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Aligned columns, numbers to the right, `–` for what is missing."""
    text = [[printable(title) for title in head], *([_plain(value) for value in row] for row in rows)]
    widths = [max(len(line[column]) for line in text) for column in range(len(head))]
    numeric = [all(isinstance(row[column], int | float | None) for row in rows) for column in range(len(head))]
    lines = [
        [
            value.rjust(width) if right else value.ljust(width)
            for value, width, right in zip(line, widths, numeric, strict=True)
        ]
        for line in text
    ]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def _plain(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else printable(str(value))
