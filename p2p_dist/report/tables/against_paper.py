"""The paper's numbers beside ours, for every cell of the study that the paper has too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from p2p_dist.report import fairness, paper, paper_settings
from p2p_dist.report.groups import Estimate, Group
from p2p_dist.report.paper import PaperRow
from p2p_dist.report.study_data import StudyData
from p2p_dist.report.table import GROUP_HEADS, Cell, Head, Table
from p2p_dist.report.tables import means
from p2p_dist.report.tables.layout import estimate_cell
from p2p_dist.report.tables.means import mean_cell
from p2p_dist.results.resultfile import MeanEntry

_RATES = {"ca": ("ca_strict", "ca_ext"), "asr": ("asr_strict", "asr_ext")}
_TITLES = {"ca": "CA ↑", "asr": "ASR ↓", "rouge1": "ROUGE-1 ↑", "rouge2": "ROUGE-2 ↑", "rougeL": "ROUGE-L ↑"}
_COUNTED = "percent, counted as the released code counts (strict); ROUGE: F1 times 100"


@dataclass(frozen=True)
class _Pair:
    """A cell of the study that the paper has too: its line there, our rates by metric, and our figures of generated
    text."""

    group: Group
    published: PaperRow
    rates: Mapping[str, Estimate]
    mapped: Estimate | None
    """Attack success with every label allowed; None where the reading is the same."""
    deviations: Sequence[str]
    """Our settings that are not the paper's; such a cell is shown and not compared."""
    means: Mapping[str, Sequence[MeanEntry]]


def build(study_data: StudyData) -> list[Table]:
    """One table, or none when the study has no cell of the paper."""
    pairs = [pair for group in study_data.groups if (pair := _pair(study_data, group))]
    metrics = [metric for metric in paper.METRICS if any(metric in pair.published.values for pair in pairs)]
    if not pairs:
        return []
    head = [
        *GROUP_HEADS,
        Head("table", "where the paper's number stands"),
    ]
    for name in (_TITLES[metric] for metric in metrics):
        head += [Head("paper", "percent, one run", name), Head("ours", _COUNTED, name)]
        head += [Head("difference", "ours minus the paper's, in points", name)]
        if name == _TITLES["asr"] and any(pair.mapped for pair in pairs):
            head += [Head("ours, mapped", "percent, every label allowed and mapped back (asr_mapped)", name)]
    if any(pair.deviations for pair in pairs):
        head += [Head("other settings", "our settings that are not the paper's; such a cell is not compared")]
    rows = [_row(pair, metrics, any(other.mapped for other in pairs))[: len(head)] for pair in pairs]
    note = (
        "Ours are the strict rates, which the code released with the paper computes; the deployed system's are in "
        "the tables above. Compared are cells with the paper's attack options, all rows, its training and, for P2P, "
        "its benign rows; options of rivals are not in the paper. Small print of ours as in the tables above."
    )
    return [
        Table(
            "against_paper",
            "The paper's numbers beside ours",
            head,
            rows,
            lead=5,
            note=note,
        )
    ]


def _pair(study_data: StudyData, group: Group) -> _Pair | None:
    labels = next(
        (result.labels.words for run in group.runs if (result := study_data.result(run)) and result.labels), ["0"]
    )
    published = paper.find(
        group.cell["task"], group.cell["model"], group.attack, group.defense, not labels[0].isdigit()
    )
    rates = {
        metric: rate
        for metric, names in _RATES.items()
        if (rate := next((one for name in names if (one := group.rate(name))), None))
    }
    figures = means.of(study_data, group)
    if not published or not (rates or figures):
        return None
    mapped = group.rate("asr_mapped") if group.constrained else None
    other = paper_settings.deviations(_specs(study_data, group), group.cell["task"].partition("(")[0])
    if published.model != paper.short_name(group.cell["model"]):
        other = [*other, "the paper does not state the model's size"]
    return _Pair(group, published, rates, mapped, other, figures)


def _specs(study_data: StudyData, group: Group) -> dict[str, Mapping[str, Any]]:
    """Specs of the stages of a group's first run by step (`attack`, `defend`), and `train`, the last of a chain."""
    stages = [study_data.specs.get(stage.id, {}) for stage in group.runs[0].stages]
    specs = {stage["spec"].get("step", stage["kind"]): stage["spec"] for stage in stages if stage}
    if training := study_data.specs.get(group.runs[0].ids.get("train") or ""):
        specs["train"] = training["spec"]
    return specs


def _row(pair: _Pair, metrics: Sequence[str], has_mapped: bool) -> list[Cell]:
    labels = [Cell(pair.group.cell[axis]) for axis in ("task", "model", "attack")]
    cells = [*labels, fairness.defense_cell(pair.group), Cell(str(pair.published.table), sort=pair.published.table)]
    for metric in metrics:
        published = pair.published.values.get(metric)
        cells += (
            _figure(published, pair.means.get(metric, ()), not pair.deviations)
            if metric not in _RATES
            else _rate(published, pair.rates.get(metric), not pair.deviations)
        )
        if metric == "asr" and has_mapped:
            cells.append(estimate_cell(pair.mapped))
    return [*cells, Cell(", ".join(pair.deviations))]


def _rate(published: float | None, ours: Estimate | None, comparable: bool) -> list[Cell]:
    if published is None or ours is None or not comparable:
        return [_paper(published), estimate_cell(ours), Cell("")]
    inside = 100 * ours.low <= published <= 100 * ours.high
    kind = "our 95 % interval" if ours.is_interval else "one standard deviation of ours"
    return [
        _paper(published),
        estimate_cell(ours),
        _difference(100 * ours.value - published, f"inside {kind}" if inside else ""),
    ]


def _figure(published: float | None, ours: Sequence[MeanEntry], comparable: bool) -> list[Cell]:
    """A figure of generated text in percent, as the paper prints it."""
    shown = mean_cell(ours, scale=100)
    return [
        _paper(published),
        shown,
        Cell("") if published is None or shown.sort is None or not comparable else _difference(shown.sort - published),
    ]


def _paper(published: float | None) -> Cell:
    return Cell("" if published is None else f"{published:.2f}", sort=published)


def _difference(points: float, remark: str = "") -> Cell:
    return Cell(f"{points:+.1f}".replace("-", "−"), remark, points)
