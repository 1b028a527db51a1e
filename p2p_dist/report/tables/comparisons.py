"""The paired tests as a table."""

from collections.abc import Sequence

from p2p_dist.report import fairness
from p2p_dist.report.comparisons import LIMIT, Comparison
from p2p_dist.report.groups import Group, flag
from p2p_dist.report.study_data import StudyData
from p2p_dist.report.table_formats import Cell, Head, Table

_RATES = {"asr_ext": "ASR", "ca_ext": "CA"}


def build(study_data: StudyData, found: Sequence[Comparison]) -> list[Table]:
    """One table, or none when nothing could be compared."""
    if not found:
        return []
    axes = [
        axis
        for axis in ("task", "model", "attack")
        if len({made.before.cell[axis] for made in found}) > 1 or axis == "attack"
    ]
    head = [*(Head(axis) for axis in axes), Head("defense"), Head("against"), Head("rate")]
    head += [
        Head("difference", "in points, on the same rows; 95 % interval from a bootstrap over rows and seeds"),
        Head("rows", "test rows that both answered, and seeds"),
        Head("p", "exact McNemar test; of several seeds the largest p"),
        Head("p (Holm)", "the same, corrected for the number of comparisons in this table"),
    ]
    note = (
        "A difference is called one when p (Holm) is below 0.05 and no model of the two has collapsed. Studies "
        f"of more than {LIMIT} runs have no such table."
    )
    return [
        Table(
            "comparisons",
            "Which differences are more than chance",
            head,
            [_row(made, axes) for made in found],
            lead=len(axes) + 3,
            note=note,
        )
    ]


def _row(made: Comparison, axes: Sequence[str]) -> list[Cell]:
    change = made.difference
    rows = f"{made.rows}" if made.seeds == 1 else f"{made.seeds}×{made.rows}"
    return [
        *(Cell(made.before.cell[axis]) for axis in axes),
        _side(made.after),
        _side(made.before),
        Cell(_RATES[made.rate]),
        Cell(points(change.value), f"[{points(change.low)}, {points(change.high)}]", 100 * change.value),
        Cell(rows, sort=made.rows),
        Cell(p_value(made.p), sort=made.p),
        Cell(
            p_value(made.adjusted),
            "a difference" if made.adjusted < 0.05 and not (made.before.collapsed or made.after.collapsed) else "",
            made.adjusted,
        ),
    ]


def _side(group: Group) -> Cell:
    return fairness.defense_cell(group, flag(group.collapsed, len(group.runs)))


def points(value: float) -> str:
    """A difference of shares in points, with its sign."""
    return f"{100 * value:+.1f}".replace("-", "−")


def p_value(p: float) -> str:
    """Three digits, or a bound."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"
