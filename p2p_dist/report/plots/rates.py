"""The first picture: how far each attack gets against each defense, and what accuracy is left."""

from collections.abc import Sequence
from typing import Any

from p2p_dist.report.groups import Estimate, Group, flag
from p2p_dist.report.plots import lines, short_labels, style
from p2p_dist.report.plots.style import Plot
from p2p_dist.report.study_data import StudyData

MOST_LINES = 44


def draw(study_data: StudyData) -> list[Plot]:
    """One picture per task that has results; of many models only the last is drawn, and said so. Answers that are text
    and no number have no accuracy, and a picture of attack success alone."""
    groups = [group for group in study_data.groups if group.rate("ca_ext") or group.rate("asr_ext")]
    tasks = dict.fromkeys(group.cell["task"] for group in groups)
    return [_task(task, [group for group in groups if group.cell["task"] == task]) for task in tasks]


def _task(task: str, groups: Sequence[Group]) -> Plot:
    shown = list(groups)
    left_out = ""
    models = list(dict.fromkeys(group.cell["model"] for group in groups))
    if len(shown) > MOST_LINES and len(models) > 1:
        shown = [group for group in groups if group.cell["model"] == models[-1]]
        left_out = f" ({models[-1]}; the tables have all {len(models)} models)"
    shown = shown[:MOST_LINES]
    several = len({group.cell["model"] for group in shown}) > 1
    heights, headings = lines.heights(shown, several)
    beside = [short_labels.folded(_name(group, False)) for group in shown]
    accuracies = [estimate for group in shown if (estimate := group.rate("ca_ext"))]
    widths = [1.15, 1] if accuracies else [1]
    figure, (axes,) = style.figure(
        0.8 + short_labels.pitch(beside, 0.2) * -min(heights),
        columns=len(widths),
        sharey=True,
        width_ratios=widths,
        squeeze=False,
    )
    left = axes[0]
    panels = (("asr_ext", "attack success ↓"), ("ca_ext", "clean accuracy ↑"))
    for axis, (name, title) in zip(axes, panels, strict=False):
        for group, height in zip(shown, heights, strict=True):
            _dot(axis, group, name, height)
            if axis is left and (words := flag(group.collapsed, len(group.runs))):
                _warn(axis, words, group.rate(name), height)
        style.tidy(axis, grid="x")
        style.headed(axis, title)
    for group, height in zip(shown, heights, strict=True):
        if group.constrained and (mapped := group.rate("asr_mapped")):
            left.plot([100 * mapped.value], [height], "x", color=style.colour(group.defense), markersize=5)
        if baseline := group.rate("floor"):
            left.plot(
                [100 * baseline.value] * 2,
                [height - 0.38, height + 0.38],
                color=style.GREY,
                linewidth=1.6,
                solid_capstyle="butt",
            )
    left.set_xlim(-3, 103)
    left.set_xticks([0, 25, 50, 75, 100])
    left.set_xlabel(_legend(shown))
    if accuracies:
        axes[1].set_xlim(max(-3.0, 100 * min(estimate.low for estimate in accuracies) - 4), 101)
        axes[1].set_xlabel("percent of clean rows")
    left.set_yticks([*heights, *headings.values()], [*beside, *headings])
    colours = [*(style.colour(group.defense) for group in shown), *([style.INK] * len(headings))]
    for label, colour in zip(left.get_yticklabels(), colours, strict=True):
        label.set_color(colour)
    for label in left.get_yticklabels()[len(shown) :]:
        label.set_weight("bold")
    left.set_ylim(min(heights) - 0.7, -0.3)
    return Plot(
        f"rates_{task}",
        f"Attack success{' and clean accuracy' if accuracies else ''}, {task}{left_out}",
        _words(shown),
        figure,
        style.note(style.BANDS, any(group.collapsed for group in shown)),
    )


def _legend(groups: Sequence[Group]) -> str:
    """Meaning of the marks beside the points of attack success."""
    meanings = ["grey bar: clean-model baseline"] if any(group.rate("floor") for group in groups) else []
    meanings += ["cross: every label allowed"] if any(group.constrained for group in groups) else []
    return "\n".join(["percent of triggered rows", *meanings])


def _dot(axis: Any, group: Group, name: str, height: float) -> None:
    if (rate := group.rate(name)) is None:
        return
    error = [[100 * (rate.value - rate.low)], [100 * (rate.high - rate.value)]]
    options = {
        "fmt": style.marker(group.defense),
        "color": style.colour(group.defense),
        "markersize": 5,
        "elinewidth": 1.4,
        "capsize": 0,
    }
    axis.errorbar(
        [100 * rate.value], [height], xerr=error, **options, **({"markerfacecolor": "white"} if rate.flag else {})
    )


def _warn(axis: Any, words: str, success: Estimate | None, height: float) -> None:
    """That models have collapsed, beside their attack success; at the edge where there is no attack."""
    right = success is None or success.high < 0.55
    place = 0.0 if success is None else success.high if right else success.low
    lines.warn(axis, words, 100 * place, height, right)


def _name(group: Group, several: bool) -> str:
    attack = "clean rows" if group.attack == "none" else short_labels.brief(group.attack)
    return f"{attack}, {short_labels.brief(group.defense)}" + (f", {group.cell['model']}" if several else "")


def _words(groups: Sequence[Group]) -> str:
    parts = []
    for group in groups:
        numbers = [
            f"{title} {rate.words()}"
            for title, name in (("ASR", "asr_ext"), ("ASR mapped", "asr_mapped"), ("CA", "ca_ext"))
            if (name != "asr_mapped" or group.constrained) and (rate := group.rate(name))
        ]
        numbers += [words] if (words := flag(group.collapsed, len(group.runs))) else []
        parts.append(f"{_name(group, True)}: {', '.join(numbers)}")
    return "; ".join(parts)
