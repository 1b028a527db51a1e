"""Rates against a number that the study varies, as the paper's Figure 3: poisoning rate, share of benign rows, ..."""

from collections.abc import Mapping
from typing import Any

from p2p_dist.report.groups import Group
from p2p_dist.report.plots import lines, style
from p2p_dist.report.plots.style import Plot
from p2p_dist.report.study_data import StudyData

PANELS = (("asr_ext", "attack success, %"), ("ca_ext", "clean accuracy, %"))
MOST = 24
_Key = tuple[str, ...]
_Series = dict[str, dict[float, Group]]


def draw(study_data: StudyData) -> list[Plot]:
    """One picture for each option of an attack or a defense that takes at least three values while all else is the
    same, with a line per defense; at most MOST."""
    found: list[Plot] = []
    for key, series in _series(study_data).items():
        long = {defense: points for defense, points in series.items() if len(points) >= 3}
        if long and len(found) < MOST:
            found.append(_picture(study_data, key, long))
    return found


def _series(study_data: StudyData) -> dict[_Key, _Series]:
    """(axis, plug-in, option, what else the picture holds fixed) to the groups by defense and value."""
    found: dict[_Key, _Series] = {}
    for group in study_data.groups:
        for axis in ("attack", "defense"):
            options = _options(study_data, group, axis)
            for option, value in options.items():
                name = group.cell[axis].partition("(")[0]
                fixed = [label for key, label in group.cell.items() if key not in ("attack", "defense")]
                rest = [f"{key}={other}" for key, other in options.items() if key != option]
                others = fixed if axis == "attack" else [*fixed, group.attack]
                line = group.defense if axis == "attack" else name
                if group.rate("ca_ext"):
                    found.setdefault((axis, name, option, *others, *rest), {}).setdefault(line, {})[value] = group
    return found


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


def _picture(study_data: StudyData, key: _Key, series: _Series) -> Plot:
    axis, name, option, *others = key
    figure, axes = style.figure(2.4, columns=2)
    tones = {
        **style.tones(series),
        **{defense: tone for defense, tone in study_data.tones.items() if defense in series},
    }
    above = lines.legend(figure, tones)
    values = sorted({value for points in series.values() for value in points})
    words = []
    for panel, (rate, title) in zip(axes, PANELS, strict=True):
        ends = []
        for defense, groups in series.items():
            points = [(value, estimate) for value, group in sorted(groups.items()) if (estimate := group.rate(rate))]
            if points:
                lines.draw(panel, points, tones[defense])
                ends.append((defense, points[-1][0], 100 * points[-1][1].value))
                words.append(
                    f"{title} {style.title_of(defense)}: "
                    + ", ".join(f"{value:g} {estimate.words()} {estimate.flag}".rstrip() for value, estimate in points)
                )
        style.tidy(panel)
        style.headed(panel, title)
        panel.set_ylim(
            *((-4, 104) if rate == "asr_ext" else (panel.get_ylim()[0] - 1, min(101.0, panel.get_ylim()[1] + 1)))
        )
        if not above:
            lines.name(panel, ends, tones)
        panel.set_xlabel(f"{axis}.{option} of {name}")
        panel.set_xticks(values, [f"{value:g}" for value in values])
        panel.set_xlim(
            values[0] - 0.05 * (values[-1] - values[0]),
            values[-1] + (0.05 if above else 0.35) * (values[-1] - values[0]),
        )
    where = [label for label in others if "=" not in label]
    note = style.note(style.BANDS, any(group.collapsed for points in series.values() for group in points.values()))
    return Plot(
        "_".join(["sweep", name, option, *where]),
        f"{name}: what {option} does ({', '.join(where)})",
        "; ".join(words),
        figure,
        note,
    )
