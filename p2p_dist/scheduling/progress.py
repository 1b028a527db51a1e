"""Live view of a study, read off the files that workers write: a bar per running job and one for the study."""

import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from p2p_dist.errors import printable
from p2p_dist.planning.jobs import Job
from p2p_dist.report.text_columns import clock
from p2p_dist.results.rundir import RunDir
from p2p_dist.scheduling.state import State
from p2p_dist.scheduling.time_left import TimeLeft

LINE_SECONDS = 15.0
"""Seconds between two rounds of lines where there is no terminal; the first round comes at once, and another one when
the first job shows how far it is."""


class ProgressView:
    """Context manager; hand `look` to the scheduler. Without a terminal it prints lines, LINE_SECONDS apart."""

    def __init__(self, folder: RunDir, titles: Mapping[str, str], console: Console, time_left: TimeLeft):
        self.folder, self.titles, self.console, self.time_left = folder, titles, console, time_left
        columns = [
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[details]}"),
        ]
        self.progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self.bars: dict[str, TaskID] = {}
        self.study_bar: TaskID | None = None
        self.started = time.monotonic()
        self.printed: float | None = None
        self.counts = False
        """True once a job has shown how far it is."""
        self.begun: dict[str, float] = {}

    def __enter__(self) -> "ProgressView":
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def look(self, state: State) -> None:
        """Show the state as it is now."""
        for job in state.running.values():
            self._show_job(job)
        self._show_study(state)
        for lead in set(self.bars) - {job.lead for job in state.running.values()}:
            self.progress.remove_task(self.bars.pop(lead))

    def _show_job(self, job: Job) -> None:
        stage = next((id_ for id_ in job.stages if not self.folder.find(id_).is_done()), job.stages[-1])
        line = self.folder.find(stage).last_metrics() or {}
        count, total = line.get("step", line.get("rows", 0)), line.get("steps", line.get("of"))
        begun = self.begun.setdefault(stage, time.monotonic())
        details = _details(line, time.monotonic() - begun)
        title = self.titles.get(stage, stage)
        if total and not self.counts:
            self.counts, self.printed = True, None
        if job.lead not in self.bars:
            self.bars[job.lead] = self.progress.add_task(title, total=total, details="")
        self.progress.update(self.bars[job.lead], description=title, completed=count, total=total, details=details)
        unit = "step" if "step" in line else "row"
        self._line(f"{title}: " + (f"{unit} {count}/{total}, {details}" if total else "starting"))

    def _show_study(self, state: State) -> None:
        total = len(state.waiting) + len(state.running) + len(state.done) + len(state.failed) + len(state.blocked)
        ended = total - len(state.waiting) - len(state.running)
        now = time.monotonic()
        left = self.time_left.update(now, state.running, state.waiting, self._share, self._kind, state.blocked)
        details = f"about {clock(left)} left"
        if self.study_bar is None:
            self.study_bar = self.progress.add_task("[bold]study (jobs)", total=total, details="")
        self.progress.update(self.study_bar, completed=ended, details=details)
        line = f"study: {ended} of {total} jobs done, {clock(now - self.started)} elapsed, {details}"
        if state.running and self._line(line):
            self.printed = now

    def _share(self, job: Job) -> float:
        """Share of a job's planned work that is done, 0 to 1."""
        done = sum(cost * self._done(id_) for id_, cost in zip(job.stages, job.costs, strict=True))
        return done / job.cost if job.cost else 0.0

    def _done(self, id_: str) -> float:
        """Share of a stage that is done, 0 to 1."""
        stage = self.folder.find(id_)
        if stage.is_done():
            return 1.0
        line = stage.last_metrics() or {}
        total = line.get("steps", line.get("of"))
        return min(1.0, line.get("step", line.get("rows", 0)) / total) if total else 0.0

    def _kind(self, job: Job) -> str:
        return self.folder.find(job.lead).kind

    def _line(self, text: str) -> bool:
        recent = self.printed is not None and time.monotonic() - self.printed < LINE_SECONDS
        if self.console.is_terminal or recent:
            return False
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)
        return True


def titles_of(runs: Iterable[Mapping[str, Any]], kinds: Mapping[str, str] | None = None) -> dict[str, str]:
    """A title for every stage of `resolved.json`'s runs: its kind, attack and defense, and the model, seed and task
    that all runs that need it share, as far as they tell it from other stages. `kinds` are by stage id; without them a
    stage that neither trains nor evaluates is called data."""
    runs = list(runs)
    words: dict[str, str] = {}
    cells: dict[str, list[Mapping[str, str]]] = {}
    for run in runs:
        cell = run["cell"]
        setting = f"{cell['attack']} + {cell['defense']}"
        for id_ in run["stages"]:
            kind = (kinds or {}).get(id_, "data")
            words.setdefault(id_, f"{kind} {setting}")
            if id_ != run["floor"]:
                cells.setdefault(id_, []).append(cell)
        words[run["train"]] = f"train {setting}"
        words[run["eval"]] = f"eval {setting}"
        if run["floor"]:
            words[run["floor"]] = f"eval clean model on {cell['attack']}"
            cells.setdefault(run["floor"], []).append(cell)
    several_tasks = len({run["cell"]["task"] for run in runs}) > 1
    return {
        id_: printable(", ".join([text, *_place(cells.get(id_, []), several_tasks)])) for id_, text in words.items()
    }


def _place(cells: list[Mapping[str, str]], several_tasks: bool) -> list[str]:
    """Task (where there are several), model and seed, each if these cells agree on it."""
    shared = {axis: cells[0][axis] for axis in cells[0] if len({cell[axis] for cell in cells}) == 1} if cells else {}
    parts = [shared["task"]] if several_tasks and "task" in shared else []
    parts += [shared["model"].rpartition("/")[2]] if "model" in shared else []
    return [*parts, *([f"seed {shared['seed']}"] if "seed" in shared else [])]


def _details(line: Mapping[str, Any], seconds: float) -> str:
    """Loss, speed and time left of a training, or the time left of anything else that counts rows."""
    if line.get("step") and all(line.get(name) is not None for name in ("loss", "seconds", "steps", "tokens")):
        left = line["seconds"] / line["step"] * max(0, line["steps"] - line["step"])
        speed = line["tokens"] / max(line["seconds"], 1e-9)
        return f"loss {line['loss']:.3f}, {speed:,.0f} tokens/s, {clock(left)} left"
    if line.get("rows") and line.get("of"):
        return f"{clock(seconds / line['rows'] * max(0, line['of'] - line['rows']))} left"
    return ""
