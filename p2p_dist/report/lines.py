"""Rates as lines over a number, one per defense, named at their ends."""

from collections.abc import Sequence
from typing import Any

from p2p_dist.report import looks
from p2p_dist.report.groups import Estimate


def draw(axis: Any, points: Sequence[tuple[float, Estimate]], defense: str) -> None:
    """A line with its band, in the defense's colour and marker; percent."""
    places = [place for place, _ in points]
    colour = looks.colour(defense)
    axis.plot(places, [100 * rate.value for _, rate in points], color=colour, marker=looks.marker(defense), markersize=4, linewidth=1.4)
    axis.fill_between(places, [100 * rate.low for _, rate in points], [100 * rate.high for _, rate in points], color=colour, alpha=0.18, linewidth=0)


def name(axis: Any, ends: Sequence[tuple[str, float, float]]) -> None:
    """The name of each line, given as (defense, x, percent) of its last point, moved apart where ends meet."""
    low, high = axis.get_ylim()
    heights = looks.spread_labels([height for _, _, height in ends], (high - low) * 0.11)
    for (defense, place, _), height in zip(ends, heights, strict=True):
        axis.annotate(
            looks.title_of(defense),
            (place, height),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=looks.FONT - 1,
            color=looks.colour(defense),
        )
