"""The paper's numbers beside ours, for every cell of the study that the paper has too."""

from p2p_dist.report import looks, paper
from p2p_dist.report.evidence import Evidence
from p2p_dist.report.grid import Cell, Head, Table
from p2p_dist.report.groups import Estimate, Group
from p2p_dist.report.paper import PaperRow
from p2p_dist.report.tables.layout import estimate_cell

_METRICS = {"ca": ("ca_strict", "ca_ext"), "asr": ("asr_strict", "asr_ext")}


def build(evidence: Evidence) -> list[Table]:
    """One table, or none when the study has no cell of the paper."""
    rows = []
    for group in evidence.groups:
        theirs = paper.find(group.cell["task"], group.cell["model"], group.attack, group.defense)
        if theirs and any(_ours(group, metric) for metric in _METRICS):
            rows.append(_row(group, theirs))
    if not rows:
        return []
    head = [Head("task"), Head("model"), Head("attack"), Head("defense"), Head("table", "where the paper's number stands")]
    for name in ("CA ↑", "ASR ↓"):
        head += [Head("paper", "percent, one run", name), Head("ours", "percent, counted as the released code counts (strict)", name)]
        head += [Head("difference", "ours minus the paper's, in points", name)]
    note = "Ours are the strict rates, which the code released with the paper computes; the deployed system's are in the tables above."
    return [Table("against_paper", "The paper's numbers beside ours", head, rows, lead=5, note=note)]


def _row(group: Group, theirs: PaperRow) -> list[Cell]:
    labels = [Cell(group.cell[axis]) for axis in ("task", "model", "attack")]
    cells = [*labels, Cell(looks.title_of(group.defense)), Cell(str(theirs.table), sort=theirs.table)]
    for metric in _METRICS:
        cells += _pair(theirs.values.get(metric), _ours(group, metric))
    return cells


def _ours(group: Group, metric: str) -> Estimate | None:
    """The strict rate, or that of the deployed system where answers are generated and there is no strict one."""
    return next((found for name in _METRICS[metric] if (found := group.rate(name))), None)


def _pair(theirs: float | None, ours: Estimate | None) -> list[Cell]:
    shown = Cell("" if theirs is None else f"{theirs:.2f}", sort=theirs)
    if theirs is None or ours is None:
        return [shown, estimate_cell(ours), Cell("")]
    difference = 100 * ours.value - theirs
    inside = 100 * ours.low <= theirs <= 100 * ours.high
    return [shown, estimate_cell(ours), Cell(f"{difference:+.1f}".replace("-", "−"), "inside our interval" if inside else "", difference)]
