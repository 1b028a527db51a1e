"""The study's one picture: what the attack reaches and what accuracy is left, per run, with intervals."""

import io
from collections.abc import Sequence

from p2p_dist.report.table import COLUMNS, axes, rows
from p2p_dist.results.collect import RunState
from p2p_dist.results.statistics import Interval

# Okabe-Ito: told apart by colour-blind readers too.
_SHOWN = {"ca": "#0072B2", "asr": "#D55E00", "asr_nobt": "#E69F00", "floor": "#999999"}


def rates_svg(runs: Sequence[RunState]) -> str:
    """Dots with 95 % Wilson intervals, a line per run, as an SVG without anything to load."""
    figure = rates_figure(runs)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def rates_png(runs: Sequence[RunState]) -> bytes:
    """The same as a PNG of 160 dpi."""
    buffer = io.BytesIO()
    rates_figure(runs).savefig(buffer, format="png", dpi=160, bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()


def rates_figure(runs: Sequence[RunState]):  # type: ignore[no-untyped-def]
    """The matplotlib figure."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "p2p-dist"
    mpl.rcParams["svg.fonttype"] = "none"
    table = rows(runs)
    figure = Figure(figsize=(7.2, 1.3 + 0.62 * len(table)))
    axis = figure.subplots()
    names = [column.key for column in COLUMNS]
    for place, (key, colour) in enumerate(_SHOWN.items()):
        at = names.index(key)
        points = [(len(table) - line + 0.18 - 0.12 * place, row.cells[at]) for line, row in enumerate(table)]
        _dots(axis, points, colour, COLUMNS[at].title)
    axis.set_yticks([len(table) - line for line in range(len(table))], [_title(runs, row.labels) for row in table])
    axis.set_ylim(0.4, len(table) + 0.6)
    axis.set_xlim(-2, 102)
    axis.set_xlabel("percent of test rows, with 95 % intervals")
    axis.grid(axis="x", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(_SHOWN), frameon=False, fontsize=9)
    return figure


def _dots(axis, points: list[tuple[float, Interval | None]], colour: str, label: str) -> None:  # type: ignore[no-untyped-def]
    there = [(height, cell) for height, cell in points if cell is not None]
    centres = [100 * cell.rate for _, cell in there]
    low = [100 * (cell.rate - cell.low) for _, cell in there]
    high = [100 * (cell.high - cell.rate) for _, cell in there]
    axis.errorbar(centres, [height for height, _ in there], xerr=[low, high], fmt="o", color=colour, markersize=6, elinewidth=1.6, label=label)


def _title(runs: Sequence[RunState], labels: tuple[str, ...]) -> str:
    cell = dict(zip(axes(runs), labels, strict=True))
    attack = "clean rows" if cell["attack"] == "none" else cell["attack"]
    defense = ", no defense" if cell["defense"] == "none" else f" + {cell['defense']}"
    rest = ", ".join(value for axis, value in cell.items() if axis not in ("attack", "defense"))
    return f"{attack}{defense}" + (f"\n{rest}" if rest else "")
