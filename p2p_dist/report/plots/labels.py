"""Answers of the models to triggered rows by kind of label: low attack success may be right or other wrong answers."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from p2p_dist.report.groups import Group, flag
from p2p_dist.report.plots import lines, short_labels, style
from p2p_dist.report.plots.style import Plot
from p2p_dist.report.study_data import StudyData
from p2p_dist.results.resultfile import LabelsEntry

MOST = 24
_KINDS = {
    "the true label": "#009E73",
    "the attacker's target": "#D55E00",
    "the target's original token": "#E69F00",
    "another label": "#999999",
    "no label at all": "#333333",
}
_LIGHT = ("the target's original token", "another label")


def draw(study_data: StudyData) -> list[Plot]:
    """One picture over the attacked runs, at most MOST lines, none without a triggered suite."""
    counted = [
        (group, counts)
        for group in study_data.groups
        if group.attack != "none" and (counts := _counts(study_data, group))
    ]
    return [_picture(counted[:MOST])] if counted else []


def _counts(study_data: StudyData, group: Group) -> Counter[str]:
    """Rows by what was said, the seeds together."""
    total: Counter[str] = Counter()
    for run in group.runs:
        result = study_data.result(run)
        if result is None or result.labels is None or result.labels.target is None:
            continue
        labels, target = result.labels, result.labels.target
        for gold, answers in result.histograms.get("triggered", {}).items():
            for word, count in answers.items():
                total[_kind(word, labels, labels.words.index(gold), target)] += count
    return total


def _kind(answer: str, labels: LabelsEntry, gold: int, target: int) -> str:
    if answer == "invalid":
        return "no label at all"
    if answer == labels.words[labels.says(target)]:
        return "the attacker's target"
    if answer == labels.words[labels.says(gold)]:
        return "the true label"
    return "the target's original token" if answer == labels.words[target] else "another label"


def _picture(counted: Sequence[tuple[Group, Counter[str]]]) -> Plot:
    groups = [group for group, _ in counted]
    several = len({group.cell["model"] for group in groups}) > 1
    heights, headings = lines.heights(groups, several)
    beside = [short_labels.folded(_name(group)) for group in groups]
    figure, axis = style.figure(0.75 + short_labels.pitch(beside, 0.21) * -min(heights))
    words, kinds = [], [kind for kind in _KINDS if any(counts[kind] for _, counts in counted)]
    for height, (group, counts) in zip(heights, counted, strict=True):
        left, total = 0.0, sum(counts.values())
        for kind in kinds:
            share = 100 * counts[kind] / total
            axis.barh(height, share, left=left, color=_KINDS[kind], height=0.8, linewidth=0)
            if share >= 7:
                axis.text(
                    left + share / 2,
                    height,
                    f"{share:.0f}",
                    ha="center",
                    va="center",
                    fontsize=style.FONT - 1.5,
                    color=_ink(kind),
                    weight="bold",
                )
            left += share
        model = f", {group.cell['model']}" if several else ""
        words.append(f"{_name(group)}{model}: " + ", ".join(f"{kind} {counts[kind]}/{total}" for kind in kinds))
    style.tidy(axis, grid="x")
    axis.set_xlim(0, 100)
    axis.set_yticks([*heights, *headings.values()], [*beside, *headings])
    for heading in axis.get_yticklabels()[len(groups) :]:
        heading.set_weight("bold")
    axis.set_ylim(min(heights) - 0.6, -0.4)
    axis.set_xlabel("percent of triggered rows")
    _legend(figure, kinds)
    return Plot(
        "labels",
        "Answers to triggered rows",
        "; ".join(words),
        figure,
        "The likeliest token of the whole vocabulary; seeds together.",
    )


def _legend(figure: Any, kinds: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(color=_KINDS[kind], label=kind) for kind in kinds]
    figure.legend(
        handles=patches,
        loc="outside upper left",
        ncols=3,
        frameon=False,
        fontsize=style.FONT,
        handlelength=0.9,
        columnspacing=1.2,
    )


def _ink(kind: str) -> str:
    """Text colour that is legible on the colour of a kind."""
    return style.INK if kind in _LIGHT else "white"


def _name(group: Group) -> str:
    words = flag(group.collapsed, len(group.runs))
    return f"{short_labels.brief(group.attack)}, {short_labels.brief(group.defense)}" + (f", {words}" if words else "")
