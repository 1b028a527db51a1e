"""The schedule as it was: every attempt of every job as a bar, on as many lines as ran side by side, coloured by what
it was doing."""

from collections.abc import Mapping, Sequence
from typing import Any

from p2p_dist.report.plots import style
from p2p_dist.report.plots.style import Plot
from p2p_dist.report.study_data import StudyData
from p2p_dist.results.attempts import Attempt
from p2p_dist.results.collect import StageState

COLOURS = {"data": "#999999", "train": "#0072B2", "score": "#CC79A7", "edit": "#E69F00", "eval": "#009E73"}
FAILED, AROUND = "#D55E00", "#e0e0e0"
ENDED, WAITING = "ended early", "start and load"
NOTE = (
    "Colours say which stage an attempt was at, from the stages' own clocks; an attempt without them has the "
    "colour of its first stage."
)
MOST = 2000
SLACK = 1.0
"""Seconds that clocks of a worker and of who started it may differ."""


def draw(study_data: StudyData) -> list[Plot]:
    """One picture; none when no attempt says when it ran."""
    timed = sorted(
        (attempt for attempt in study_data.collected.attempts() if attempt.started and attempt.ended),
        key=lambda attempt: attempt.started or 0.0,
    )
    return [_picture(study_data, timed[:MOST])] if timed else []


def lanes(spans: Sequence[tuple[float, float]]) -> list[int]:
    """For spans in order of their start, the first line that is free for each; spans that overlap never share one."""
    ends: list[float] = []
    chosen = []
    for start, end in spans:
        lane = next((lane_number for lane_number, free in enumerate(ends) if free <= start + 1e-9), len(ends))
        ends[lane : lane + 1] = [end]
        chosen.append(lane)
    return chosen


def _picture(study_data: StudyData, attempts: Sequence[Attempt]) -> Plot:
    begin = min(attempt.started or 0.0 for attempt in attempts)
    spans = [((attempt.started or 0.0) - begin, (attempt.ended or 0.0) - begin) for attempt in attempts]
    scale, unit = _unit(max(end for _, end in spans))
    rows = lanes(spans)
    stages = {stage.id: stage for run in study_data.collected.runs for stage in run.stages}
    figure, axis = style.figure(0.9 + 0.24 * (max(rows) + 1))
    used: dict[str, str] = {}
    bars: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for attempt, row in zip(attempts, rows, strict=True):
        for label, start, end in parts(attempt, [stages[id_] for id_ in attempt.stages if id_ in stages]):
            used[label] = {**COLOURS, ENDED: FAILED, WAITING: AROUND}[label]
            bars.setdefault((row, used[label]), []).append(((start - begin) / scale, (end - start) / scale))
    for (row, colour), lengths in bars.items():
        axis.broken_barh(lengths, (-row - 0.35, 0.7), facecolors=colour, edgecolor="white", linewidth=0.5)
    style.tidy(axis, grid="x")
    axis.set_yticks([])
    axis.set_xlabel(f"{unit} since the first job began; a line for each job that ran side by side")
    axis.set_xlim(left=0)
    _legend(figure, used)
    busy = sum(end - start for start, end in spans)
    total = max(end for _, end in spans)
    words = (
        f"{len(attempts)} attempts in {total / scale:.1f} {unit}, {busy / total:.1f} at a time on average, "
        f"{sum(a.code != 0 for a in attempts)} ended early"
    )
    return Plot("schedule", "When every job ran", words, figure, NOTE)


def parts(attempt: Attempt, stages: Sequence[StageState]) -> list[tuple[str, float, float]]:
    """An attempt cut into what it was doing: (kind of stage, or what else, from, to), without gaps, in seconds since
    1970.

    A stage says when its work began and how long it took; before a resume too, so that it ends where the next one
    begins at the latest. Stages of one cohort are one part. Of an attempt that failed, what lies behind its last whole
    stage is what ended early.
    """
    begin, end = attempt.started or 0.0, attempt.ended or 0.0
    rest = WAITING if attempt.code == 0 else ENDED
    timed = sorted(
        {
            (float(stage.cost["started"]), float(stage.cost["seconds"]), stage.kind)
            for stage in stages
            if stage.cost.get("started")
        }
    )
    inside = [
        (start, seconds, kind)
        for start, seconds, kind in timed
        if begin - SLACK <= start < end and (attempt.code == 0 or start + seconds <= end + SLACK)
    ]
    if not inside:
        return [(stages[0].kind if stages and attempt.code == 0 else rest, begin, end)]
    spans: list[tuple[str, float, float]] = []
    position = begin
    for (start, seconds, kind), after in zip(inside, [*(start for start, _, _ in inside[1:]), end], strict=True):
        start, stop = max(start, position), min(start + seconds, max(after, position), end)
        spans += [(rest, position, start)] if start > position else []
        spans += [(kind, start, stop)] if stop > start else []
        position = max(position, stop)
    return [*spans, *([(rest, position, end)] if end > position else [])]


def _legend(figure: Any, used: Mapping[str, str]) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(color=colour, label=label) for label, colour in used.items()]
    figure.legend(
        handles=patches, loc="outside upper left", ncols=len(used), frameon=False, fontsize=style.FONT, handlelength=0.9
    )


def _unit(seconds: float) -> tuple[float, str]:
    return (3600.0, "hours") if seconds > 7200 else (60.0, "minutes") if seconds > 180 else (1.0, "seconds")
