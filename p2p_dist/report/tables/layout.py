"""The paper's layout (its Tables 1 to 3): attacks down, defenses across, CA and ASR in each cell, a table per task."""

from collections.abc import Mapping, Sequence

from p2p_dist.report import devices, fairness, origins
from p2p_dist.report.groups import Estimate, Group
from p2p_dist.report.plots import short_labels
from p2p_dist.report.study_data import StudyData
from p2p_dist.report.table import Cell, Head, Table, points
from p2p_dist.report.tables import costs
from p2p_dist.results.paired_rates import ASR_READINGS
from p2p_dist.results.statistics import Difference

CA, ASR, MAPPED, EXCESS = "CA ↑", "ASR ↓", "ASR mapped ↓", "excess ↓"


def build(study_data: StudyData) -> list[Table]:
    """One table for each task that has an attack."""
    tasks = dict.fromkeys(group.cell["task"] for group in study_data.groups if group.attack != "none")
    return [
        _table(study_data, task, [group for group in study_data.groups if group.cell["task"] == task]) for task in tasks
    ]


def _table(study_data: StudyData, task: str, groups: Sequence[Group]) -> Table:
    cells = {(group.cell["model"], group.attack, group.defense): group for group in groups}
    defenses = list(dict.fromkeys(group.defense for group in groups))
    constrained = {group.defense for group in groups if group.constrained}
    paired = {group.defense for group in groups if group.excess() is not None}
    rows = []
    for model, attack in dict.fromkeys((group.cell["model"], group.attack) for group in groups):
        row_groups = [cells.get((model, attack, defense)) for defense in defenses]
        labels = [Cell(model), Cell("clean rows" if attack == "none" else attack)]
        flags = [(defense in constrained, defense in paired) for defense in defenses]
        rows.append([*labels, *_row(row_groups, flags)])
    titles = short_labels.briefs(defenses)
    head = [Head("model"), Head("attack")]
    for defense in defenses:
        head += [Head(CA, "clean accuracy of the deployed system, percent", titles[defense])]
        head += [Head(ASR, "attack success rate of the deployed system, percent", titles[defense])]
        if defense in constrained:
            head += [Head(MAPPED, "the same with every label allowed and mapped back, percent", titles[defense])]
        if defense not in paired:
            continue
        meaning = "the larger ASR minus the rate of the same rows without the trigger under the same prompt, in points"
        head += [Head(EXCESS, meaning, titles[defense])]
    note = (
        "Best CA and lowest ASR of a row in bold, of two ASR the larger. ASR: answers held to the defense's own labels "
        "(constrained decoding); ASR mapped: every label allowed. excess: above the same rows without the trigger. "
        "Small print: 95 % interval (one seed: over its rows; several: over seeds and rows; ±: one standard deviation, "
        "where predictions are missing) and rows. Collapsed: a model that gives nearly every clean row one answer, "
        "which is never the best; nor is a defense under which the backdoor fires. Below: the needs of each defense, "
        "and the time of a run."
    )
    return Table(
        f"rates_{task}",
        f"{task}: attacks and defenses",
        head,
        rows,
        lead=2,
        note=note + origins.note(groups) + devices.note(groups),
        feet=_feet(study_data, groups, titles),
    )


def _feet(
    study_data: StudyData, groups: Sequence[Group], called: Mapping[str, str]
) -> list[tuple[str, dict[str, str]]]:
    """Feet of the table of rates: the resources that every defense was given, and the time it took."""
    needs = {called[group.defense]: fairness.needs(group.needs) for group in groups if group.needs}
    feet = [
        (head.text, {name: words[index] for name, words in needs.items()})
        for index, head in enumerate(fairness.NEEDS)
        if needs
    ]
    unit, seconds = costs.seconds_by_defense(study_data, groups)
    return [*feet, (f"{unit} per run", {called[name]: text for name, text in seconds.items() if text})]


def _row(groups: Sequence[Group | None], columns: Sequence[tuple[bool, bool]]) -> list[Cell]:
    """Cells of a line; `columns` says which defenses have a column of the mapped reading, and one of the excess."""
    accuracies = [group.rate("ca_ext") if group else None for group in groups]
    successes = [group.rate("asr_ext") if group else None for group in groups]
    sound = [group is not None and not group.collapsed and not group.hidden for group in groups]
    best_ca = max((rate.value for rate, good in zip(accuracies, sound, strict=True) if rate and good), default=None)
    worst = [group.rate("asr_worst") if group else None for group in groups]
    best_asr = min((rate.value for rate, good in zip(worst, sound, strict=True) if rate and good), default=None)
    several = sum(group is not None for group in groups) > 1
    cells = []
    for index, group in enumerate(groups):
        accuracy, larger, good = accuracies[index], worst[index], several and sound[index]
        best = good and larger is not None and larger.value == best_asr
        cells += [estimate_cell(accuracy, good and accuracy is not None and accuracy.value == best_ca)]
        cells += [estimate_cell(successes[index], best)]
        constrained, paired = columns[index]
        if constrained:
            cells += [estimate_cell(group.rate("asr_mapped") if group else None, best)]
        if paired:
            cells += [excess_cell(_larger_excess(group, constrained) if group else None)]
    return cells


def _larger_excess(group: Group, constrained: bool) -> Difference | None:
    """Excess of the reading that exceeds most."""
    readings = ASR_READINGS if constrained else ("asr_ext",)
    excesses = [excess for reading in readings if (excess := group.excess(reading)) is not None]
    return max(excesses, key=lambda excess: excess.value, default=None)


def excess_cell(excess: Difference | None) -> Cell:
    """An excess in points, with its interval in the small print."""
    if excess is None:
        return Cell("")
    return Cell(points(excess.value), f"[{points(excess.low)}, {points(excess.high)}]", 100 * excess.value)


def estimate_cell(estimate: Estimate | None, best: bool = False) -> Cell:
    """A rate in percent; its small print is interval or deviation, and count, and whether models have collapsed."""
    if estimate is None:
        return Cell("")
    text, _, detail = estimate.words().partition(" ")
    return Cell(text, detail, 100 * estimate.value, best, estimate.flag)
