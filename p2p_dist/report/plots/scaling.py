"""Scaling: whether the defense holds as models grow. Rates against the number of parameters."""

import math
from collections.abc import Sequence

from p2p_dist.config.training_axis import training_of
from p2p_dist.report.groups import Estimate, Group
from p2p_dist.report.plots import lines, style
from p2p_dist.report.plots.style import Plot
from p2p_dist.report.study_data import StudyData

TICK_ROOM = 0.2
"""Share of the axis that the name of a size takes, with its margin."""
PANELS = (
    ("asr_ext", "attack success, %"),
    ("asr_nobt", "attack success without\nthe benign trigger, %"),
    ("ca_ext", "clean accuracy, %"),
)


def draw(study_data: StudyData) -> list[Plot]:
    """One picture per task, attack and training of which at least two model sizes are there."""
    keys = dict.fromkeys(_key(group) for group in study_data.groups if group.attack != "none")
    pictures = []
    for key in keys:
        groups = [group for group in study_data.groups if _key(group) == key and group.rate("ca_ext")]
        if len({study_data.parameters(group.cell["model"]) for group in groups} - {None}) > 1:
            pictures.append(_picture(study_data, key, groups))
    return pictures


def _key(group: Group) -> tuple[str, str, str]:
    return group.cell["task"], group.attack, training_of(group.cell["model"])


def _picture(study_data: StudyData, key: tuple[str, str, str], groups: Sequence[Group]) -> Plot:
    task, attack, training = key
    figure, axes = style.figure(2.3, columns=3)
    defenses = list(dict.fromkeys(group.defense for group in groups))
    tones = {defense: study_data.tones[defense] for defense in defenses}
    lines.legend(figure, tones)
    words: list[str] = []
    for axis, (name, title) in zip(axes, PANELS, strict=True):
        series = {
            defense: _points(study_data, [group for group in groups if group.defense == defense], name)
            for defense in defenses
        }
        mapped = {
            defense: _points(
                study_data, [group for group in groups if group.defense == defense and group.constrained], "asr_mapped"
            )
            for defense in defenses
            if name == "asr_ext"
        }
        words += lines.draw_panel(axis, title, series, tones, short_size, name == "ca_ext", mapped)
        axis.set_xscale("log")
        axis.set_xlabel("parameters")
        sizes = sorted({size for group in groups if (size := study_data.parameters(group.cell["model"]))})
        ticks = apart(sizes)
        axis.set_xticks(ticks, [short_size(size) for size in ticks])
        axis.set_xticks([], minor=True)
        axis.set_xlim(sizes[0] / 1.3, sizes[-1] * 1.3)
    constrained = any(group.constrained for group in groups)
    note = style.note(style.bands(constrained), any(group.collapsed for group in groups))
    name = "_".join(part for part in ("scaling", *key) if part)
    message = f"{attack} on {task} as models grow" + (f" ({training})" if training else "")
    return Plot(name, message, "; ".join(words), figure, note)


def _points(study_data: StudyData, groups: Sequence[Group], name: str) -> list[tuple[int, Estimate]]:
    points = [
        (size, rate)
        for group in groups
        if (size := study_data.parameters(group.cell["model"])) and (rate := group.rate(name))
    ]
    return sorted(points, key=lambda point: point[0])


def apart(sizes: Sequence[int]) -> list[int]:
    """Sizes whose names have room beside each other on a log scale: from the largest down, each at least
    TICK_ROOM of the axis from the next one. The others keep their points."""
    chosen: list[int] = []
    for size in sorted(sizes, reverse=True):
        if not chosen or math.log(chosen[-1] / size) >= TICK_ROOM * math.log(1.7 * max(sizes) / min(sizes)):
            chosen.append(size)
    return sorted(chosen)


def short_size(parameters: float) -> str:
    """A number of parameters as the field writes it: 135M, 0.6B, 1.7B, 8B, 14B."""
    if parameters >= 4.5e8:
        return f"{parameters / 1e9:.{0 if parameters >= 9.95e9 else 1}f}".removesuffix(".0") + "B"
    return f"{parameters / 1e6:.0f}M" if parameters >= 1e6 else f"{parameters / 1e3:.0f}K"
