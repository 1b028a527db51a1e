"""The schedule as it was: every attempt of every job as a bar, on as many lines as ran side by side."""

from collections.abc import Mapping, Sequence

from p2p_dist.report import looks
from p2p_dist.report.evidence import Evidence
from p2p_dist.report.looks import Plot
from p2p_dist.results.attempts import Attempt

COLOURS = {"data": "#999999", "train": "#0072B2", "score": "#CC79A7", "edit": "#E69F00", "eval": "#009E73"}
FAILED = "#D55E00"
MOST = 2000


def draw(evidence: Evidence) -> list[Plot]:
    """One picture; none when no attempt says when it ran."""
    timed = sorted((attempt for attempt in evidence.found.attempts() if attempt.started and attempt.ended), key=lambda attempt: attempt.started or 0.0)
    return [_picture(evidence, timed[:MOST])] if timed else []


def lanes(spans: Sequence[tuple[float, float]]) -> list[int]:
    """For spans in order of their start, the first line that is free for each; spans that overlap never share one."""
    ends: list[float] = []
    found = []
    for start, end in spans:
        lane = next((at for at, free in enumerate(ends) if free <= start + 1e-9), len(ends))
        ends[lane : lane + 1] = [end]
        found.append(lane)
    return found


def _picture(evidence: Evidence, attempts: Sequence[Attempt]) -> Plot:
    begin = min(attempt.started or 0.0 for attempt in attempts)
    spans = [((attempt.started or 0.0) - begin, (attempt.ended or 0.0) - begin) for attempt in attempts]
    scale, unit = _unit(max(end for _, end in spans))
    rows = lanes(spans)
    kinds: Mapping[str, str] = {id_: stage["kind"] for id_, stage in evidence.specs.items()}
    figure, axis = looks.figure(0.9 + 0.24 * (max(rows) + 1))
    used: dict[str, str] = {}
    bars: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for attempt, (start, end), row in zip(attempts, spans, rows, strict=True):
        kind = kinds.get(attempt.stages[0], "train") if attempt.stages else "train"
        label, colour = (kind, COLOURS[kind]) if attempt.code == 0 else ("ended early", FAILED)
        used[label] = colour
        bars.setdefault((row, colour), []).append((start / scale, (end - start) / scale))
    for (row, colour), lengths in bars.items():
        axis.broken_barh(lengths, (-row - 0.35, 0.7), facecolors=colour, edgecolor="white", linewidth=0.5)
    looks.tidy(axis, grid="x")
    axis.set_yticks([])
    axis.set_xlabel(f"{unit} since the first job began; a line for each job that ran side by side")
    axis.set_xlim(left=0)
    _legend(figure, used)
    busy = sum(end - start for start, end in spans)
    total = max(end for _, end in spans)
    words = f"{len(attempts)} attempts in {total / scale:.1f} {unit}, {busy / total:.1f} at a time on average, {sum(a.code != 0 for a in attempts)} ended early"
    return Plot("schedule", "When every job ran", words, figure)


def _legend(figure: object, used: Mapping[str, str]) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(color=colour, label=label) for label, colour in used.items()]
    figure.legend(handles=patches, loc="outside upper left", ncols=len(used), frameon=False, fontsize=looks.FONT, handlelength=0.9)  # type: ignore[attr-defined]


def _unit(seconds: float) -> tuple[float, str]:
    return (3600.0, "hours") if seconds > 7200 else (60.0, "minutes") if seconds > 180 else (1.0, "seconds")
