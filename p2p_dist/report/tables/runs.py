"""Every run with every headline rate, as `p2p_dist.report.table` declares them."""

from p2p_dist.report import table
from p2p_dist.report.evidence import Evidence
from p2p_dist.report.grid import Cell, Head, Table
from p2p_dist.results.statistics import Interval


def build(evidence: Evidence) -> list[Table]:
    """One table; a line for each run."""
    runs = evidence.found.runs
    if not runs:
        return []
    axes = table.axes(runs)
    rows = [[*(Cell(label) for label in row.labels), *(_cell(cell) for cell in row.cells)] for row in table.rows(runs)]
    head = [*(Head(axis) for axis in axes), *(Head(column.title, column.meaning) for column in table.COLUMNS)]
    note = "Percent. Small print: 95 % Wilson interval and count. A dash is a number that does not exist or is not there yet."
    return [Table("runs", "Every run", head, rows, lead=len(axes), note=note)]


def _cell(cell: Interval | None) -> Cell:
    if cell is None:
        return Cell("")
    return Cell(f"{100 * cell.rate:.1f}", f"[{100 * cell.low:.1f}, {100 * cell.high:.1f}] {cell.k}/{cell.n}", 100 * cell.rate)
