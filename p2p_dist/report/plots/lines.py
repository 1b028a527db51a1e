"""Parts that several pictures share: rates as lines over a number, and the rows of a list of groups."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from p2p_dist.report.groups import Estimate, Group
from p2p_dist.report.plots import short_labels, style
from p2p_dist.report.plots.style import Tone


def draw(axis: Any, points: Sequence[tuple[float, Estimate]], tone: Tone) -> None:
    """A line with its band, in the defense's tone, hollow where models have collapsed; percent."""
    places, options = [place for place, _ in points], {"color": tone.colour, "marker": tone.marker, "markersize": 4}
    axis.plot(places, [100 * rate.value for _, rate in points], linestyle=tone.dash, linewidth=1.4, **options)
    for place, rate in points:
        if rate.flag:
            axis.plot([place], [100 * rate.value], markerfacecolor="white", zorder=3, **options)
            warn(axis, rate.flag, place, 100 * rate.value)
    axis.fill_between(
        places,
        [100 * rate.low for _, rate in points],
        [100 * rate.high for _, rate in points],
        color=tone.colour,
        alpha=0.18,
        linewidth=0,
    )


def draw_mapped(axis: Any, points: Sequence[tuple[float, Estimate]], tone: Tone) -> None:
    """Attack success with every label allowed: crosses on a dotted line in the defense's tone, without a band."""
    places = [place for place, _ in points]
    rates = [100 * rate.value for _, rate in points]
    axis.plot(places, rates, linestyle=":", linewidth=0.9, color=tone.colour, marker="x", markersize=4)


Series = Mapping[str, Sequence[tuple[float, Estimate]]]
"""Points of a line by the defense that it is of."""


def draw_panel(
    axis: Any,
    title: str,
    series: Series,
    tones: Mapping[str, Tone],
    number: Callable[[float], str],
    accuracy: bool,
    mapped: Series | None = None,
) -> list[str]:
    """Draw the lines of one rate on a panel, and return them in words; `number` writes a value of the x axis. `mapped`
    are the same lines with every label allowed, of defenses for which that may differ."""
    words = []
    for defense, points in series.items():
        if points:
            draw(axis, points, tones[defense])
            values = ", ".join(f"{number(value)} {rate.words()} {rate.flag}".rstrip() for value, rate in points)
            words.append(f"{title.replace(chr(10), ' ')} {style.title_of(defense)}: {values}")
    for defense, points in (mapped or {}).items():
        if points:
            draw_mapped(axis, points, tones[defense])
            values = ", ".join(f"{number(value)} {rate.words()}" for value, rate in points)
            words.append(f"every label allowed {style.title_of(defense)}: {values}")
    style.tidy(axis)
    style.headed(axis, title)
    low, high = axis.get_ylim()
    axis.set_ylim(*((low - 1, min(101.0, high + 1)) if accuracy else (-4, 104)))
    return words


def warn(axis: Any, words: str, place: float, height: float, right: bool | None = None) -> None:
    """Small grey words above a point, or to its right or left."""
    offset, sideways = ((0, 5), "center") if right is None else ((5, 0), "left") if right else ((-5, 0), "right")
    upright = "bottom" if right is None else "center"
    axis.annotate(
        words,
        (place, height),
        xytext=offset,
        textcoords="offset points",
        ha=sideways,
        va=upright,
        fontsize=style.FONT - 2,
        color=style.GREY,
    )


def legend(figure: Any, tones: Mapping[str, Tone]) -> None:
    """The names of these defenses' lines above the panels: at the ends of lines they would run into each other."""
    brief = short_labels.briefs(tones)
    style.legend(figure, {brief[defense]: tone for defense, tone in tones.items()}, markers=True)


def heights(groups: Sequence[Group], several: bool) -> tuple[list[float], dict[str, float]]:
    """Line by line from the top, with a gap between attacks, and a line of its own above each model when there are
    several."""
    heights: list[float] = []
    headings: dict[str, float] = {}
    height = 0.0
    for index, group in enumerate(groups):
        model = group.cell["model"]
        if several and model not in headings:
            height -= 1.6 if index else 1.0
            headings[model] = height
            height -= 1.0
        else:
            height -= 1.5 if index and group.attack != groups[index - 1].attack else 1.0
        heights.append(height)
    return heights, headings
