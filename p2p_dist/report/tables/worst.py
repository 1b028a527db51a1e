"""Worst case of a defense: over all attacks and their variants, and above the clean-model baseline."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from p2p_dist.report import fairness
from p2p_dist.report.groups import Estimate, Group
from p2p_dist.report.study_data import StudyData
from p2p_dist.report.table import Cell, Head, Table, points
from p2p_dist.report.tables.layout import estimate_cell, excess_cell
from p2p_dist.results.paired_rates import ASR_READINGS
from p2p_dist.results.statistics import Difference, Interval, net, over_seeds, wilson, worst_case


@dataclass(frozen=True)
class _Variant:
    """An attack, or another trigger or prompt of it: its success over seeds, and seed by seed beside the clean
    model's."""

    group: Group
    name: str
    success: Estimate
    excess: Difference | None
    """Above the same rows without the trigger; None for variants, whose rows are not asked without it."""
    baselines: Sequence[tuple[Interval, Interval]]


def build(study_data: StudyData) -> list[Table]:
    """One table, or none without an attack."""
    variants_by_defense: dict[tuple[str, str, str], list[_Variant]] = {}
    for group in study_data.groups:
        if group.attack != "none":
            variants_by_defense.setdefault((group.cell["task"], group.cell["model"], group.defense), []).extend(
                _variants(group)
            )
    rows = [_row(task, model, variants) for (task, model, _), variants in variants_by_defense.items() if variants]
    head = [
        Head("task"),
        Head("model"),
        Head("defense"),
        Head(
            "worst ASR",
            "highest attack success rate over the study's attacks, their variants and both readings, percent; of "
            "several seeds their mean; mapped: every label allowed and mapped back",
        ),
        Head("reached by"),
        Head("variants", "how many attacks and variants it was taken over"),
        Head(
            "net ASR",
            "that minus the ASR of a clean model on the same rows, in points; 95 % interval (Newcombe), or the "
            "deviation over seeds",
        ),
        Head(
            "excess",
            "that minus the rate of the same rows without the trigger, same model and same prompt, in points; 95 % "
            "paired interval, of several seeds over seeds and rows",
        ),
    ]
    note = (
        "A worst case over few attacks says little, and over attacks on collapsed models nothing; net ASR is missing "
        "where the study trains no clean "
        "model, or for variants it was not asked about."
    )
    return [Table("worst_case", "Worst case over the attacks", head, rows, lead=3, note=note)] if rows else []


def _variants(group: Group) -> Iterator[_Variant]:
    """The attack itself, and every other trigger or prompt that was tried on the deployed system."""
    readings = list(ASR_READINGS) if group.constrained else list(ASR_READINGS)[:1]
    names = dict.fromkeys(name for run in group.runs for name in run.rates if name.partition(".")[0] in readings)
    for name in names:
        if success := group.rate(name):
            reading, _, variant = name.partition(".")
            title = f"{group.attack}/{variant}" if variant else group.attack
            baselines = [] if variant else list(_baselines(group, reading))
            excess = None if variant else group.excess(reading)
            yield _Variant(group, title + (", mapped" if reading == "asr_mapped" else ""), success, excess, baselines)


def _baselines(group: Group, reading: str) -> Iterator[tuple[Interval, Interval]]:
    """The attack's success and the clean model's on the same rows, of every seed that has both."""
    for run in group.runs:
        if run.floor and (rate := run.rates.get(reading)):
            yield wilson(rate["k"], rate["n"]), wilson(run.floor["k"], run.floor["n"])


def _row(task: str, model: str, variants: Sequence[_Variant]) -> list[Cell]:
    index, _ = worst_case({index: variant.success.value for index, variant in enumerate(variants)})
    worst = variants[index]
    labels = [Cell(task), Cell(model), fairness.defense_cell(worst.group)]
    fallen = sum(bool(variant.success.collapsed) for variant in variants)
    over = Cell(str(len(variants)), sort=len(variants), flag=f"{fallen} of them collapsed" if fallen else "")
    return [
        *labels,
        estimate_cell(worst.success),
        Cell(worst.name),
        over,
        replace(_net(worst.baselines), flag=worst.success.flag if worst.baselines else ""),
        replace(excess_cell(worst.excess), flag=worst.success.flag if worst.excess else ""),
    ]


def _net(pairs: Sequence[tuple[Interval, Interval]]) -> Cell:
    """Of several seeds the mean of their differences: rows of different seeds are the same sentences, and not more of
    them."""
    if not pairs:
        return Cell("")
    if len(pairs) == 1:
        above = net(*pairs[0])
        return Cell(points(above.value), f"[{points(above.low)}, {points(above.high)}]", 100 * above.value)
    spread = over_seeds([success.rate - baseline.rate for success, baseline in pairs])
    return Cell(
        points(spread.mean), f"± {100 * (spread.sd or 0.0):.1f} n={spread.seeds}×{pairs[0][0].n}", 100 * spread.mean
    )
