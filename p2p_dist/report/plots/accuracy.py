"""The paper's Figure 4: what clean accuracy costs. The clean model, the attacked one and every defended one, task by
task."""

from collections.abc import Sequence
from typing import Any

from p2p_dist.report.groups import Estimate, Group, estimate
from p2p_dist.report.plots import short_labels, style
from p2p_dist.report.plots.style import Plot
from p2p_dist.report.study_data import StudyData

NOTE = "Bars: one standard deviation over attacks and seeds, or the 95 % interval of one run."
LEAST = 10.0
"""Points that the axis shows at least."""
FLAG_ROOM = 0.15
"""Room at the right for the word that marks a collapsed model, as a share of the axis."""


def draw(study_data: StudyData) -> list[Plot]:
    """One picture over tasks and models; none until there is something to set beside an undefended model."""
    settings = _settings(study_data.groups)
    if len(settings) < 2:
        return []
    places = list(
        dict.fromkeys((group.cell["task"], group.cell["model"]) for group in study_data.groups if group.rate("ca_ext"))
    )[:12]
    varying = [len({place[axis_number] for place in places}) > 1 for axis_number in (0, 1)]
    beside = {
        (title, place): short_labels.folded(_name(title, place, varying)) for title, _ in settings for place in places
    }
    figure, axis = style.figure(
        0.75 + short_labels.pitch([*beside.values()], 0.2) * (len(settings) + 0.6) * len(places)
    )
    height, fallen, words = 0.0, 0, list[str]()
    ticks: list[tuple[float, str, str]] = []
    ends: list[float] = []
    for place in places:
        height -= 0.6
        for (title, colour), groups in settings.items():
            if not (rates := _rates(groups, place)):
                continue
            height -= 1
            accuracy = estimate(rates)
            _point(axis, accuracy, height, colour)
            ends.extend((100 * accuracy.low, 100 * accuracy.high))
            ticks.append((height, beside[title, place], colour))
            rate = f"{100 * accuracy.spread.mean:.1f} over {accuracy.spread.seeds} runs {accuracy.flag}"
            words.append(f"{_name(title, place, varying)}: {rate}".rstrip())
            fallen += accuracy.collapsed
    style.tidy(axis, grid="x")
    axis.set_yticks([height for height, _, _ in ticks], [label for _, label, _ in ticks])
    for label, (_, _, colour) in zip(axis.get_yticklabels(), ticks, strict=True):
        label.set_color(colour)
    low, high = span(ends)
    axis.set_xlim(low, high + (FLAG_ROOM * (high - low) if fallen else 0.0))
    axis.set_ylim(height - 0.9, -0.7)
    axis.set_xlabel("clean accuracy, %")
    return [
        Plot(
            "accuracy",
            "Clean accuracy under the attack and each defense",
            "; ".join(words),
            figure,
            style.note(NOTE, fallen),
        )
    ]


def _rates(groups: Sequence[Group], place: tuple[str, str]) -> list[Any]:
    """Clean accuracy of every run of these groups on one task and model."""
    of_place = (group for group in groups if (group.cell["task"], group.cell["model"]) == place)
    return [rate for group in of_place for rate in group.rates("ca_ext")]


def _point(axis: Any, accuracy: Estimate, height: float, colour: str) -> None:
    """A mean with its bar and its number, hollow where models have collapsed."""
    value, low, high = 100 * accuracy.value, 100 * accuracy.low, 100 * accuracy.high
    face = "white" if accuracy.flag else colour
    bar = [[value - low], [high - value]]
    axis.errorbar(
        [value], [height], xerr=bar, fmt="o", color=colour, markersize=5, elinewidth=1.4, markerfacecolor=face
    )
    words = f"{100 * accuracy.spread.mean:.1f} {accuracy.flag}".rstrip()
    axis.annotate(
        words, (high, height), xytext=(7, 0), textcoords="offset points", va="center", fontsize=style.FONT - 1
    )


def _name(title: str, place: tuple[str, str], varying: Sequence[bool]) -> str:
    return ", ".join([title, *(label for label, many in zip(place, varying, strict=True) if many)])


def span(ends: Sequence[float]) -> tuple[float, float]:
    """The axis for these percentages: at least LEAST wide, or a difference of a row would fill the picture."""
    middle, margin = (min(ends) + max(ends)) / 2, max(LEAST, max(ends) - min(ends)) * 0.62
    return middle - margin, middle + margin


def _settings(groups: Sequence[Group]) -> dict[tuple[str, str], list[Group]]:
    """Groups by setting: clean rows, attacked, and each defense."""
    settings: dict[tuple[str, str], list[Group]] = {}
    brief = short_labels.briefs(group.defense for group in groups)
    for group in groups:
        if not group.rate("ca_ext"):
            continue
        if group.defense != "none":
            key = (brief[group.defense], style.colour(group.defense))
        else:
            key = ("clean rows", style.INK) if group.attack == "none" else ("attacked", style.colour("none"))
        settings.setdefault(key, []).append(group)
    order = ["clean rows", "attacked"]
    return dict(
        sorted(settings.items(), key=lambda item: order.index(item[0][0]) if item[0][0] in order else len(order))
    )
