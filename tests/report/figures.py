"""Texts of a laid-out figure: their boxes, and what is wrong with them."""

import itertools
from collections.abc import Sequence
from typing import Any

from p2p_dist.report.plots.style import Plot

DrawnText = tuple[str, Any]
"""A text and its box in pixels."""


def texts(plot: Plot) -> list[DrawnText]:
    """Every text that a picture shows, with its box in the pixels of the PNG file."""
    from matplotlib.axis import Tick
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    plot.arrange()
    plot.figure.set_dpi(200)
    canvas = FigureCanvasAgg(plot.figure)
    plot.figure.draw_without_rendering()
    hidden = {
        label
        for axes in plot.figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in axis.findobj(Tick)
        for label in (tick.label1, tick.label2)
    } - {label for axes in plot.figure.axes for axis in (axes.xaxis, axes.yaxis) for label in _shown_labels(axis)}
    found = [text for text in plot.figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), text.get_window_extent(canvas.get_renderer())) for text in found if text not in hidden]


def _shown_labels(axis: Any) -> list[Any]:
    """Labels of the ticks inside the limits; matplotlib keeps others that it does not draw."""
    low, high = sorted(axis.get_view_interval())
    ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    return [tick.label1 for tick in ticks if low - 1e-9 <= tick.get_loc() <= high + 1e-9 and tick.label1.get_visible()]


def overlaps(drawn: Sequence[DrawnText]) -> list[tuple[str, str]]:
    """Pairs of texts whose boxes overlap by more than a pixel each way."""
    return [
        (first, second)
        for (first, one), (second, other) in itertools.combinations(drawn, 2)
        if min(one.x1, other.x1) - max(one.x0, other.x0) > 1 and min(one.y1, other.y1) - max(one.y0, other.y0) > 1
    ]


def clipped(plot: Plot, drawn: Sequence[DrawnText]) -> list[str]:
    """Texts that do not lie inside the canvas."""
    width, height = plot.figure.canvas.get_width_height(physical=True)
    return [text for text, box in drawn if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1]
