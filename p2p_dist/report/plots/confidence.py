"""The paper's Figure 2: how sure the model is of the attacker's target on triggered rows, before and after the
defense."""

import math
from collections.abc import Sequence
from typing import Any

from p2p_dist.report.groups import defended_by, undefended
from p2p_dist.report.plots import short_labels, style
from p2p_dist.report.plots.style import Plot
from p2p_dist.report.study_data import StudyData
from p2p_dist.results.collect import RunState

BINS = 20
MOST_DEFENSES = 8
"""Defenses of a panel; more lines and names are not told apart."""
MOST = 4


def draw(study_data: StudyData) -> list[Plot]:
    """For the first attacks that have an undefended and a defended model: one panel per attack."""
    rows: list[tuple[RunState, Sequence[RunState]]] = []
    others, total = defended_by(study_data.collected.runs), 0
    for attacked in study_data.collected.runs:
        if attacked.cell["attack"] == "none" or attacked.cell["defense"] != "none" or len(rows) == MOST:
            continue
        if any(attacked.cell["attack"] == before.cell["attack"] for before, _ in rows):
            continue
        if attacked.rates and (defended_runs := others.get(undefended(attacked.cell))):
            rows.append((attacked, defended_runs[:MOST_DEFENSES]))
            total = max(total, len(defended_runs))
    note = f"The first {MOST_DEFENSES} of {total} defenses." if total > MOST_DEFENSES else ""
    return [_picture(study_data, rows, note)] if rows else []


def _picture(study_data: StudyData, rows: Sequence[tuple[RunState, Sequence[RunState]]], note: str) -> Plot:
    figure, axes = style.figure(0.5 + 1.45 * len(rows), rows=len(rows), sharex=True, squeeze=False)
    words = []
    tones = study_data.tones
    for axis, (attacked, others) in zip(axes[:, 0], rows, strict=True):
        for run in (attacked, *others):
            values = confidences(study_data, run)
            if values:
                _steps(axis, values, tones[run.cell["defense"]])
                sure = sum(value > 0.5 for value in values)
                words.append(f"{run.cell['attack']}, {_title(run)}: above 0.5 on {sure} of {len(values)} rows")
        style.tidy(axis)
        axis.set_ylabel("share of rows, %")
        axis.set_ylim(0, 104)
        style.headed(axis, f"{attacked.cell['attack']}, {attacked.cell['model']}")
    for axis, (attacked, others) in zip(axes[:, 0], rows, strict=True):
        _name_collapsed(axis, [run for run in (attacked, *others) if run.collapsed])
    drawn = dict.fromkeys(run.cell["defense"] for attacked, others in rows for run in (attacked, *others))
    style.legend(figure, {name: tones[defense] for defense, name in short_labels.briefs(drawn).items()})
    axes[-1, 0].set_xlabel("probability of the attacker's target among the deployed labels, triggered rows")
    axes[-1, 0].set_xlim(0, 1)
    return Plot(
        "confidence",
        "Probability of the attacker's target, with and without a defense",
        "; ".join(words),
        figure,
        note,
    )


def confidences(study_data: StudyData, run: RunState) -> list[float]:
    """Probability of the target among the deployed labels, for every triggered row."""
    result = study_data.result(run)
    if result is None or result.labels is None or result.labels.target is None:
        return []
    start, n = result.labels.offset, result.labels.n_classes
    target = result.labels.says(result.labels.target) - start
    shares = []
    for row in study_data.predictions(run, "triggered"):
        weights = [math.exp(score - max(row.scores[start : start + n])) for score in row.scores[start : start + n]]
        shares.append(weights[target] / sum(weights))
    return shares


def _steps(axis: Any, values: Sequence[float], tone: style.Tone) -> None:
    counts = [0] * BINS
    for value in values:
        counts[min(BINS - 1, int(value * BINS))] += 1
    edges = [number / BINS for number in range(BINS + 1)]
    shares = [100 * count / len(values) for count in counts]
    axis.stairs(shares, edges, color=tone.colour, linestyle=tone.dash, linewidth=1.6)
    axis.stairs(shares, edges, color=tone.colour, fill=True, alpha=0.15)


def _title(run: RunState) -> str:
    return short_labels.brief(run.cell["defense"]) + (" (collapsed)" if run.collapsed else "")


def _name_collapsed(axis: Any, runs: Sequence[RunState]) -> None:
    """Write the names of collapsed models in the empty middle of the panel."""
    for number, run in enumerate(runs):
        place, colour = (0.5, 0.86 - 0.14 * number), style.colour(run.cell["defense"])
        axis.text(
            *place, _title(run), transform=axis.transAxes, ha="center", fontsize=style.FONT, color=colour, weight="bold"
        )
