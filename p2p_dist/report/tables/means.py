"""Figures that are no rates, such as ROUGE of generated summaries (the paper's Table 11)."""

from collections.abc import Sequence

from p2p_dist.report import fairness
from p2p_dist.report.groups import Group
from p2p_dist.report.study_data import StudyData
from p2p_dist.report.table import GROUP_HEADS, Cell, Head, Table
from p2p_dist.results.resultfile import MeanEntry
from p2p_dist.results.statistics import over_seeds


def build(study_data: StudyData) -> list[Table]:
    """One table, or none when every figure is a rate."""
    means_by_group = {id(group): of(study_data, group) for group in study_data.groups}
    names = list(dict.fromkeys(name for means in means_by_group.values() for name in means))
    if not names:
        return []
    head = [
        *GROUP_HEADS,
        *(Head(name, "mean over the rows of a suite, 0 to 1") for name in names),
    ]
    rows = [
        [*_labels(group), *(mean_cell(means_by_group[id(group)].get(name, [])) for name in names)]
        for group in study_data.groups
        if means_by_group[id(group)]
    ]
    return [
        Table(
            "means",
            "Figures of generated text",
            head,
            rows,
            lead=4,
            note="Small print: rows, or ± the deviation over seeds.",
        )
    ]


def of(study_data: StudyData, group: Group) -> dict[str, list[MeanEntry]]:
    """The figures of a group's seeds, by name."""
    means: dict[str, list[MeanEntry]] = {}
    for run in group.runs:
        if result := study_data.result(run):
            for name, entry in result.means.items():
                means.setdefault(name, []).append(entry)
    return means


def _labels(group: Group) -> list[Cell]:
    return [Cell(group.cell["task"]), Cell(group.cell["model"]), Cell(group.attack), fairness.defense_cell(group)]


def mean_cell(entries: Sequence[MeanEntry], scale: int = 1) -> Cell:
    """The mean over seeds, times `scale`; its small print is the count, or deviation and seeds."""
    if not entries:
        return Cell("")
    spread, digits = over_seeds([scale * entry.mean for entry in entries]), 3 if scale == 1 else 1
    detail = f"n={entries[0].n}" if spread.sd is None else f"± {spread.sd:.{digits}f} n={spread.seeds}×{entries[0].n}"
    return Cell(f"{spread.mean:.{digits}f}", detail, spread.mean)
