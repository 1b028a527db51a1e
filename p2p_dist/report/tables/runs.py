"""All runs with every headline rate, as `p2p_dist.report.run_columns` declares them."""

from dataclasses import replace

from p2p_dist.report import fairness, run_columns
from p2p_dist.report.run_columns import TableRow
from p2p_dist.report.study_data import StudyData
from p2p_dist.report.table import Cell, Head, Table
from p2p_dist.report.tables.layout import excess_cell
from p2p_dist.results.collect import RunState
from p2p_dist.results.statistics import Excess, Interval


def build(study_data: StudyData) -> list[Table]:
    """One table; a line for each run."""
    runs = study_data.collected.runs
    if not runs:
        return []
    axes = run_columns.axes(runs)
    rows = [_row(axes, run, row) for run, row in zip(runs, run_columns.rows(runs), strict=True)]
    head = [*(Head(axis) for axis in axes), *(Head(column.title, column.meaning) for column in run_columns.COLUMNS)]
    note = (
        "Percent. Small print: 95 % Wilson interval and count; excess: points, and the paired interval. A dash is a "
        "number that does not exist or is not there yet."
    )
    return [Table("runs", "All runs", head, rows, lead=len(axes), note=note)]


def _row(axes: list[str], run: RunState, row: TableRow) -> list[Cell]:
    needs = {"defense": fairness.short(run.needs)} if run.cell["defense"] != "none" else {}
    labels = [Cell(label, needs.get(axis, "")) for axis, label in zip(axes, row.labels, strict=True)]
    fallen = "collapsed" if run.collapsed else ""
    return [
        *labels,
        *(
            _cell(cell, fallen if column.deployed else "")
            for column, cell in zip(run_columns.COLUMNS, row.cells, strict=True)
        ),
    ]


def _cell(cell: Interval | Excess | None, flag: str) -> Cell:
    if cell is None:
        return Cell("")
    if isinstance(cell, Excess):
        return replace(excess_cell(cell), flag=flag)
    return Cell(
        f"{100 * cell.rate:.1f}",
        f"[{100 * cell.low:.1f}, {100 * cell.high:.1f}] {cell.k}/{cell.n}",
        100 * cell.rate,
        flag=flag,
    )
