"""The table of a study for a terminal of 80 columns: rates in percent with their counts; intervals are in the report."""

from collections.abc import Sequence

from rich.table import Table

from p2p_dist.report.table import COLUMNS, TableRow
from p2p_dist.results.statistics import Interval


def rich_table(axes: Sequence[str], rows: Sequence[TableRow]) -> Table:
    """A line for each run."""
    table = Table(title="percent, count below; intervals and what the columns mean are in the report", title_justify="left", padding=(0, 1, 0, 0), box=None)
    for axis in axes:
        table.add_column(axis)
    for column in COLUMNS:
        table.add_column(column.short, justify="right")
    for row in rows:
        table.add_row(*row.labels, *(_cell(cell) for cell in row.cells))
    return table


def _cell(cell: Interval | None) -> str:
    return "–" if cell is None else f"{100 * cell.rate:.1f}\n{cell.k}/{cell.n}"
