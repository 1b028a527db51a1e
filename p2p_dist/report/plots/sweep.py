"""Rates against a number that the study varies, as the paper's Figure 3: poisoning rate, share of benign rows, ..."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from p2p_dist.config.training_axis import TRAINING, model_of, training_of
from p2p_dist.report.groups import Group
from p2p_dist.report.plots import lines, style
from p2p_dist.report.plots.style import Plot
from p2p_dist.report.study_data import StudyData

PANELS = (("asr_ext", "attack success, %"), ("ca_ext", "clean accuracy, %"))
MOST = 24
TICK_ROOM = 0.12
"""Share of the axis that the name of a value takes, with its margin."""
_Series = dict[str, dict[float, Group]]


@dataclass(frozen=True)
class _Key:
    """Identity of one picture: an option of a plug-in on one axis (attack or defense) or of the training, and the
    values held fixed: labels of the cell, and the other numbers of the plug-in or of the training."""

    axis: str
    plugin: str
    option: str
    labels: tuple[str, ...]
    numbers: tuple[str, ...]

    def name(self, numbers: bool) -> str:
        """The name of the picture, with the fixed numbers where pictures differ in them alone."""
        return "_".join(["sweep", self.plugin, self.option, *self.labels, *(self.numbers if numbers else ())])

    def message(self, numbers: bool) -> str:
        """The heading of the picture."""
        fixed = ", ".join([*self.labels, *(self.numbers if numbers else ())])
        return f"{self.plugin}: what {self.option} does ({fixed})"


def draw(study_data: StudyData) -> list[Plot]:
    """One picture for each option of an attack, a defense or the training that takes at least three values while all
    else is the same, with a line per defense; at most MOST."""
    long: dict[_Key, _Series] = {}
    for key, series in _series(study_data).items():
        if lines_drawn := {defense: points for defense, points in series.items() if len(points) >= 3}:
            long[key] = lines_drawn
    names = Counter(key.name(numbers=False) for key in long)
    return [
        _picture(study_data, key, series, names[key.name(numbers=False)] > 1)
        for key, series in list(long.items())[:MOST]
    ]


def _series(study_data: StudyData) -> dict[_Key, _Series]:
    """The groups of every picture by defense and value."""
    pictures: dict[_Key, _Series] = {}
    for group in (group for group in study_data.groups if group.rate("ca_ext")):
        for axis in ("attack", "defense"):
            options = _options(study_data, group, axis)
            plugin = group.cell[axis].partition("(")[0]
            labels = [label for key, label in group.cell.items() if key not in ("attack", "defense")]
            labels += [group.attack] if axis == "defense" else []
            line = group.defense if axis == "attack" else plugin
            for option, value in options.items():
                numbers = tuple(f"{key}={other}" for key, other in options.items() if key != option)
                key = _Key(axis, plugin, option, tuple(labels), numbers)
                pictures.setdefault(key, {}).setdefault(line, {})[value] = group
        for key, value in _trained_with(group):
            pictures.setdefault(key, {}).setdefault(group.defense, {})[value] = group
    return pictures


def _trained_with(group: Group) -> Iterator[tuple[_Key, float]]:
    """The numbers that tell the group's training from others of the study, each with the picture that it is part of."""
    settings = dict(part.partition("=")[::2] for part in training_of(group.cell["model"]).split())
    labels = group.cell["task"], model_of(group.cell["model"]), group.attack
    for option, value in settings.items():
        others = tuple(f"{key}={other}" for key, other in settings.items() if key != option)
        if _is_number(value):
            yield _Key(TRAINING, TRAINING, option, labels, others), float(value)


def _is_number(text: str) -> bool:
    """True if a label is a number."""
    try:
        return isfinite(float(text))
    except ValueError:
        return False


def _options(study_data: StudyData, group: Group, axis: str) -> dict[str, float]:
    """The numbers among a plug-in's options, from the spec of the stage that it made."""
    step = "attack" if axis == "attack" else "defend"
    stages = (study_data.specs.get(stage.id, {}) for stage in group.runs[0].stages)
    specs = [
        stage["spec"][axis] for stage in stages if stage.get("kind") == "data" and stage["spec"].get("step") == step
    ]
    spec: Mapping[str, Any] = next((spec for spec in specs if spec["name"] == group.cell[axis].partition("(")[0]), {})
    return {
        key: float(value)
        for key, value in spec.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _picture(study_data: StudyData, key: _Key, series: _Series, numbers: bool) -> Plot:
    figure, axes = style.figure(2.4, columns=2)
    tones = {
        **style.tones(series),
        **{defense: tone for defense, tone in study_data.tones.items() if defense in series},
    }
    lines.legend(figure, tones)
    values = sorted({value for points in series.values() for value in points})
    words: list[str] = []
    for panel, (rate, title) in zip(axes, PANELS, strict=True):
        points = {
            defense: [(value, estimate) for value, group in sorted(groups.items()) if (estimate := group.rate(rate))]
            for defense, groups in series.items()
        }
        mapped = {
            defense: [
                (value, estimate)
                for value, group in sorted(groups.items())
                if rate == "asr_ext" and group.constrained and (estimate := group.rate("asr_mapped"))
            ]
            for defense, groups in series.items()
        }
        words += lines.draw_panel(panel, title, points, tones, "{:g}".format, rate != "asr_ext", mapped)
        panel.set_xlabel(f"train.{key.option}" if key.axis == TRAINING else f"{key.axis}.{key.option} of {key.plugin}")
        ticks = apart(values)
        panel.set_xticks(ticks, [f"{value:g}" for value in ticks])
        panel.set_xlim(
            values[0] - 0.05 * (values[-1] - values[0]),
            values[-1] + 0.05 * (values[-1] - values[0]),
        )
    constrained = any(group.constrained for points in series.values() for group in points.values())
    note = style.note(
        style.bands(constrained), any(group.collapsed for points in series.values() for group in points.values())
    )
    return Plot(
        key.name(numbers),
        key.message(numbers),
        "; ".join(words),
        figure,
        note,
    )


def apart(values: Sequence[float]) -> list[float]:
    """Values whose names have room beside each other, from the largest down. The others keep their points."""
    chosen: list[float] = []
    for value in sorted(values, reverse=True):
        if not chosen or chosen[-1] - value >= TICK_ROOM * (max(values) - min(values)):
            chosen.append(value)
    return sorted(chosen)
