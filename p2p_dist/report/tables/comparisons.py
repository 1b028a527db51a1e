"""The paired tests as a table."""

from collections.abc import Sequence

from p2p_dist.report import fairness
from p2p_dist.report.comparisons import LIMIT, Comparison
from p2p_dist.report.groups import Group, flag
from p2p_dist.report.table import Cell, Head, Table, points

SIGNIFICANT = 0.05
NOTE = (
    f"A difference is called one when p (Holm) is below {SIGNIFICANT} and no model of the two has collapsed; all "
    f"others are folded. Studies of more than {LIMIT} runs have no such table."
)
_RATES = {"asr_ext": "ASR", "ca_ext": "CA"}


def build(tested: Sequence[Comparison]) -> list[Table]:
    """One table, or none when nothing could be compared. Differences that may be chance are folded."""
    if not tested:
        return []
    axes = [
        axis
        for axis in ("task", "model", "attack")
        if axis == "attack" or len({comparison.before.cell[axis] for comparison in tested}) > 1
    ]
    head = [*(Head(axis) for axis in axes), Head("defense"), Head("against"), Head("rate")]
    head += [
        Head("difference", "in points, on the same rows; 95 % interval over rows and seeds (of one seed Newcombe's)"),
        Head("rows", "test rows that both answered, and seeds"),
        Head("p", "exact McNemar test; of several seeds a test over rows and seeds"),
        Head("p (Holm)", "the same, corrected for the number of comparisons in this table"),
    ]
    significant = [_row(comparison, axes) for comparison in tested if _is_difference(comparison)]
    chance = [_row(comparison, axes) for comparison in tested if not _is_difference(comparison)]
    return [
        Table(
            "comparisons",
            "Differences that are more than chance",
            head,
            significant,
            lead=len(axes) + 3,
            note=NOTE,
            folded=chance,
            folded_title=f"{len(chance)} of {len(tested)} comparisons that may be chance",
        )
    ]


def _is_difference(comparison: Comparison) -> bool:
    """True if it is significant after Holm's correction and neither model has collapsed."""
    return comparison.adjusted < SIGNIFICANT and not (comparison.before.collapsed or comparison.after.collapsed)


def _row(comparison: Comparison, axes: Sequence[str]) -> list[Cell]:
    change = comparison.difference
    rows = f"{comparison.rows}" if comparison.seeds == 1 else f"{comparison.seeds}×{comparison.rows}"
    return [
        *(Cell(comparison.before.cell[axis]) for axis in axes),
        _side(comparison.after),
        _side(comparison.before),
        Cell(_RATES[comparison.rate]),
        Cell(points(change.value), f"[{points(change.low)}, {points(change.high)}]", 100 * change.value),
        Cell(rows, sort=comparison.rows),
        Cell(p_value(comparison.p), sort=comparison.p),
        Cell(
            p_value(comparison.adjusted),
            "a difference" if _is_difference(comparison) else "",
            comparison.adjusted,
        ),
    ]


def _side(group: Group) -> Cell:
    return fairness.defense_cell(group, flag(group.collapsed, len(group.runs)))


def p_value(p: float) -> str:
    """Three digits, or a bound."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"
