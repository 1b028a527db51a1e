"""Style of every picture: sizes of a paper's page, one colour and marker per defense, told apart by
colour-blind readers (Okabe and Ito's colours) and in print without colour."""

import hashlib
import io
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

WIDTH = 6.3
"""Inches: the text width of an A4 or letter page in two columns."""
FONT = 8.5
LEGEND_LETTERS = 78
"""Letters of a line of a legend with one column."""
BANDS = (
    "Bands and bars: 95 % intervals, of one seed over its rows, of several over seeds and rows; where predictions are "
    "missing, one standard deviation over seeds."
)
MAPPED = "Crosses on dotted lines: attack success with every label allowed and mapped back."
COLLAPSED = (
    "Hollow, collapsed: a model that gives nearly every clean row one answer; its attack rates say nothing "
    "about a defense."
)
GREY, INK, LIGHT = "#767676", "#1a1a1a", "#e4e4e4"

_KNOWN = {
    "none": ("#D55E00", "o"),
    "p2p": ("#0072B2", "D"),
    "onion": ("#E69F00", "s"),
    "back_translation": ("#009E73", "^"),
    "scpd": ("#CC79A7", "v"),
    "bki": ("#56B4E9", "P"),
    "moddef": ("#8C6D31", "X"),
}
_OTHERS = ("#5D3A9B", "#7A7A00", "#A33B6A", "#1B7F79", "#4D4D4D", "#B8860B")
_MARKERS = ("<", ">", "p", "h", "*", "d")
_SHADES = (0.0, -0.5, 0.4, -0.75, 0.65)
_DASHES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class Plot:
    """One picture: its file name, its message as a sentence, what it shows in words for those who cannot see it, and
    itself. `note` says what is not obvious."""

    name: str
    message: str
    description: str
    figure: Any
    note: str = ""

    def svg(self) -> bytes:
        """Scalable, letters as shapes, so that it looks the same everywhere; the same figure gives the same bytes."""
        import matplotlib as mpl
        from matplotlib.backends.backend_svg import FigureCanvasSVG

        self.arrange()
        buffer = io.BytesIO()
        with mpl.rc_context({"svg.hashsalt": "p2p-dist", "svg.fonttype": "path"}):
            FigureCanvasSVG(self.figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
        content = buffer.getvalue()
        return content[content.index(b"<svg") :]

    def png(self) -> bytes:
        """200 dots per inch."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        self.arrange()
        buffer = io.BytesIO()
        self.figure.set_dpi(200)
        FigureCanvasAgg(self.figure).print_png(buffer, metadata={"Software": None})
        return buffer.getvalue()

    def arrange(self) -> None:
        """Lay the figure out once. `savefig` would do so for every format, and draw everything once more to do it."""
        if engine := self.figure.get_layout_engine():
            engine.execute(self.figure)
            self.figure.set_layout_engine("none")


def colour(defense: str) -> str:
    """A defense's colour: the same in every picture of every study."""
    name = defense.partition("(")[0]
    return _KNOWN[name][0] if name in _KNOWN else _OTHERS[_number(name) % len(_OTHERS)]


def marker(defense: str) -> str:
    """A defense's marker, for readers without colour."""
    name = defense.partition("(")[0]
    return _KNOWN[name][1] if name in _KNOWN else _MARKERS[_number(name) % len(_MARKERS)]


@dataclass(frozen=True)
class Tone:
    """Colour, marker and dash pattern of a defense's lines."""

    colour: str
    marker: str
    dash: str


def tones(defenses: Iterable[str]) -> dict[str, Tone]:
    """A tone for each of a study's defenses. Those that differ in their options alone are shades of one colour, with
    dashes of their own; given in the same order they look the same in every picture."""
    tone_by_defense: dict[str, Tone] = {}
    arms = Counter[str]()
    for defense in dict.fromkeys(defenses):
        name = defense.partition("(")[0]
        shade = arms[name]
        tone_by_defense[defense] = Tone(
            _mixed(colour(name), _SHADES[shade % len(_SHADES)]), marker(name), _DASHES[shade % len(_DASHES)]
        )
        arms[name] += 1
    return tone_by_defense


def _mixed(colour: str, share: float) -> str:
    """A colour with so much white in it, or black where negative."""
    parts = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return "#" + "".join(
        f"{round(part + share * (255 - part) if share > 0 else part * (1 + share)):02X}" for part in parts
    )


def title_of(defense: str) -> str:
    """A defense as a label."""
    return "no defense" if defense == "none" else defense.replace("p2p", "P2P", 1)


def bands(mapped: object) -> str:
    """The meaning of bands and bars, and of crosses where a picture has both readings of attack success."""
    return f"{BANDS} {MAPPED}" if mapped else BANDS


def note(text: str, collapsed: object) -> str:
    """A picture's note, with the meaning of hollow markers where there are any."""
    return f"{text} {COLLAPSED}" if collapsed else text


def figure(height: float, columns: int = 1, rows: int = 1, **layout: Any) -> tuple[Any, Any]:
    """A figure of paper width and its axes (one, or an array as `layout` says), in the house style."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = made.subplots(rows, columns, **layout)
    return made, axes


def tidy(axis: Any, grid: str = "y") -> None:
    """No frame, a light grid behind the data, small type."""
    axis.grid(axis=grid, color=LIGHT, linewidth=0.6)
    axis.set_axisbelow(True)
    for side in ("top", "right", *(("left",) if grid == "x" else ())):
        axis.spines[side].set_visible(False)
    axis.tick_params(labelsize=FONT, length=0 if grid == "x" else 2)
    axis.xaxis.label.set_size(FONT)
    axis.yaxis.label.set_size(FONT)


def legend(figure: Any, lines: Mapping[str, Tone], markers: bool = False) -> None:
    """Names and their lines above the panels, for which the figure grows; long names are folded."""
    from matplotlib.lines import Line2D

    longest = max(map(len, lines), default=0)
    columns = 1 if longest > 45 else 2 if longest > 20 else 4
    names = [textwrap.fill(name, LEGEND_LETTERS) for name in lines]
    handles = [
        Line2D(
            [],
            [],
            color=tone.colour,
            linestyle=tone.dash,
            label=name,
            marker=tone.marker if markers else None,
            markersize=4,
        )
        for name, tone in zip(names, lines.values(), strict=True)
    ]
    rows = sum(
        max(name.count("\n") + 1 for name in names[start : start + columns]) for start in range(0, len(names), columns)
    )
    figure.set_figheight(figure.get_figheight() + 0.16 * rows)
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=columns,
        frameon=False,
        fontsize=FONT - 1,
        handlelength=2.2,
        columnspacing=1.4,
    )


def headed(axis: Any, text: str) -> None:
    """A panel's title, flush left."""
    axis.set_title(text, loc="left", fontsize=FONT + 0.5)


def _number(name: str) -> int:
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
