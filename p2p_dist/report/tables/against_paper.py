"""The paper's numbers beside ours, for every cell of the study that the paper has too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from p2p_dist.config.training_axis import model_of
from p2p_dist.report import fairness, paper, paper_settings
from p2p_dist.report.groups import Estimate, Group, same_but
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
        "the tables above. Compared are cells with the paper's rate, rows, attack, training and, for P2P, benign rows "
        "and prompt, as far as the paper or the released code states them; options of rivals are in neither. Intervals "
        "are of our rates alone: the paper's are of one run, and have none. Small print of ours as in the tables above."
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
    task, model = group.cell["task"].partition("(")[0], model_of(group.cell["model"])
    specs, labels = _specs(study_data, group), _label_words(study_data, group)
    trigger = paper_settings.benign_trigger(specs, task)
    numbers = labels[0].isdigit()
    variant = "prompt_2" if trigger is not None else paper.FIRST_VARIANTS[0] if numbers else "token_2"
    cell = (task, model, group.attack, group.defense)
    published = paper.find(*cell, (variant,)) or paper.find(*cell)
    rates = {
        metric: rate
        for metric, names in _RATES.items()
        if (rate := next((one for name in names if (one := group.rate(name))), None))
    }
    figures = means.of(study_data, group)
    if not published or not (rates or figures):
        return None
    mapped = group.rate("asr_mapped") if group.constrained else None
    other = paper_settings.deviations(specs, task, {metric: rate.n for metric, rate in rates.items()})
    counts = _undefended(study_data, group).runs[0].counts
    if (held_out := counts.get("dropped", {}).get("held_out")) and task not in paper_settings.ROWS_NOT_STATED:
        other = [*other, f"{held_out} training rows held out (paper: none)"]
    if not numbers and published.variant != "token_2" and task not in paper_settings.LABELS_NOT_STATED:
        other = [*other, f"labels {labels[0]}, {labels[1]}, ... (paper: numbers)"]
    if published.model != paper.short_name(model):
        other = [*other, "the paper does not state the model's size"]
    return _Pair(group, published, rates, mapped, other, figures)


def _label_words(study_data: StudyData, group: Group) -> Sequence[str]:
    """Words of the labels; numbers where no result says them, as where answers are text."""
    results = (study_data.result(run) for run in group.runs)
    return next((result.labels.words for result in results if result and result.labels), ["0", "1"])


def _specs(study_data: StudyData, group: Group) -> dict[str, Mapping[str, Any]]:
    """Specs behind a group's first run: the rows that it is evaluated on by step (`attack`, `defend`), and `train`. A
    training from another adapter has that one's spec as `start`.

    The training of a rival, which may change settings of its own, is that of the undefended run beside it.
    """
    specs = {spec.get("step", "eval"): spec for spec in _behind(study_data, group.runs[0].ids.get("eval"), "rows")}
    run = (group if _is_compared(group.defense) else _undefended(study_data, group)).runs[0]
    train, *start = _behind(study_data, run.ids.get("train"), "start") or [{}]
    return {**specs, **({"train": train} if train else {}), **({"start": start[0]} if start else {})}


def _undefended(study_data: StudyData, group: Group) -> Group:
    """The undefended runs beside a group; the group itself where the study has none."""
    beside = (one for one in study_data.groups if one.defense == "none" and same_but(one.cell, group.cell, "defense"))
    return next(beside, group)


def _is_compared(defense: str) -> bool:
    """True for a defense whose options are in the paper."""
    return defense.partition("(")[0] in ("none", "p2p")


def _behind(study_data: StudyData, id_: str | None, role: str) -> list[Mapping[str, Any]]:
    """Specs of a stage and of those that it reads in this role, one behind the other, as far as they are known."""
    specs = []
    while (stage := study_data.specs.get(id_ or "")) is not None:
        specs.append(stage["spec"])
        id_ = stage["reads"].get(role)
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
    points = 100 * ours.value - published
    return [
        _paper(published),
        estimate_cell(ours),
        _difference(points, f"inside {interval_name(ours)}" if inside else ""),
    ]


def interval_name(ours: Estimate) -> str:
    """The interval of our rate as what it is."""
    seeds = ours.spread.seeds
    if seeds == 1:
        return "our 95 % interval over rows (Wilson)"
    return "our 95 % interval over seeds and rows" if ours.is_interval else f"one standard deviation over {seeds} seeds"


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
