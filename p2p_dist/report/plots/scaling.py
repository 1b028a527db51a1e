"""Does the defense hold as models grow? Rates against the number of parameters, with the deviation over seeds."""

from collections.abc import Sequence

from p2p_dist.report.groups import Estimate, Group
from p2p_dist.report.plots import lines, style
from p2p_dist.report.plots.style import Plot
from p2p_dist.report.study_data import StudyData

PANELS = (
    ("asr_ext", "attack success, %"),
    ("asr_nobt", "attack success without\nthe benign trigger, %"),
    ("ca_ext", "clean accuracy, %"),
)


def draw(study_data: StudyData) -> list[Plot]:
    """One picture per task and attack of which at least two model sizes are there."""
    keys = dict.fromkeys((group.cell["task"], group.attack) for group in study_data.groups if group.attack != "none")
    found = []
    for task, attack in keys:
        groups = [
            group
            for group in study_data.groups
            if (group.cell["task"], group.attack) == (task, attack) and group.rate("ca_ext")
        ]
        if len({study_data.parameters(group.cell["model"]) for group in groups} - {None}) > 1:
            found.append(_picture(study_data, task, attack, groups))
    return found


def _picture(study_data: StudyData, task: str, attack: str, groups: Sequence[Group]) -> Plot:
    figure, axes = style.figure(2.3, columns=3)
    defenses = list(dict.fromkeys(group.defense for group in groups))
    tones = {defense: study_data.tones[defense] for defense in defenses}
    above = lines.legend(figure, tones)
    words = []
    for axis, (name, title) in zip(axes, PANELS, strict=True):
        ends = []
        for defense in defenses:
            points = _points(study_data, [group for group in groups if group.defense == defense], name)
            if points:
                lines.draw(axis, points, tones[defense])
                ends.append((defense, points[-1][0], 100 * points[-1][1].value))
                words.append(
                    f"{title.replace(chr(10), ' ')} {style.title_of(defense)}: "
                    + ", ".join(f"{size:.2g} {rate.words()} {rate.flag}".rstrip() for size, rate in points)
                )
        if not above:
            lines.name(axis, ends, tones)
        style.tidy(axis)
        axis.set_xscale("log")
        style.headed(axis, title)
        axis.set_xlabel("parameters")
        axis.set_ylim(
            *((-4, 104) if name != "ca_ext" else (axis.get_ylim()[0] - 1, min(101.0, axis.get_ylim()[1] + 1)))
        )
        sizes = sorted({size for group in groups if (size := study_data.parameters(group.cell["model"]))})
        axis.set_xticks(sizes, [_short(size) for size in sizes])
        axis.set_xticks([], minor=True)
        axis.set_xlim(sizes[0] / 1.3, sizes[-1] * (sizes[-1] / sizes[0]) ** (0.05 if above else 0.5))
    note = style.note(style.BANDS, any(group.collapsed for group in groups))
    return Plot(f"scaling_{task}_{attack}", f"{attack} on {task} as models grow", "; ".join(words), figure, note)


def _points(study_data: StudyData, groups: Sequence[Group], name: str) -> list[tuple[int, Estimate]]:
    found = [
        (size, rate)
        for group in groups
        if (size := study_data.parameters(group.cell["model"])) and (rate := group.rate(name))
    ]
    return sorted(found, key=lambda point: point[0])


def _short(size: float) -> str:
    return f"{size / 1e9:.1f}B" if size >= 1e8 else f"{size / 1e6:.1f}M"
