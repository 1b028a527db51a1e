"""The table of a study for a terminal."""

from collections.abc import Sequence

from rich.table import Table

from p2p_dist.report.table import COLUMNS, TableRow
from p2p_dist.results.statistics import Interval


def rich_table(axes: Sequence[str], rows: Sequence[TableRow]) -> Table:
    """Rates in percent, each with its 95 % interval and count below it."""
    table = Table(title="percent [95 % Wilson interval] and count", title_justify="left", show_lines=True)
    for title in [*axes, *(column.title for column in COLUMNS)]:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*row.labels, *(_cell(cell) for cell in row.cells))
    return table


def _cell(cell: Interval | None) -> str:
    return "–" if cell is None else f"{100 * cell.rate:.1f}\n\\[{100 * cell.low:.0f}–{100 * cell.high:.0f}]\n{cell.k}/{cell.n}"
