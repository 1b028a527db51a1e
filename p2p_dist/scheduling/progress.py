"""The live view of a study, read off the files that workers write: a bar per running job and one for the study."""

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from p2p_dist.planning.jobs import Job
from p2p_dist.report.terminal import clock
from p2p_dist.results.rundir import RunDir
from p2p_dist.scheduling.scheduler import State

LINE_SECONDS = 15.0


class ProgressView:
    """Use as a context manager and hand `look` to the scheduler. Without a terminal it prints a line now and then."""

    def __init__(self, folder: RunDir, titles: dict[str, str], console: Console):
        self.folder, self.titles, self.console = folder, titles, console
        columns = [
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[facts]}"),
        ]
        self.progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self.tasks: dict[str, TaskID] = {}
        self.study: TaskID | None = None
        self.started = time.monotonic()
        self.printed = 0.0
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
        share = {job.lead: self._show(job) for job in state.running.values()}
        self._show_study(state, share)
        for lead in set(self.tasks) - set(share):
            self.progress.remove_task(self.tasks.pop(lead))

    def _show(self, job: Job) -> float:
        """Show one running job; returns how much of it is done, 0 to 1."""
        done = [self.folder.find(id_).is_done() for id_ in job.stages]
        doing = job.stages[
            -1 if all(done) else done.index(False)
        ]  # a worker whose last result is there takes a moment to leave
        line = self.folder.find(doing).last_metrics() or {}
        at, of = line.get("step", line.get("rows", 0)), line.get("steps", line.get("of"))
        begun = self.begun.setdefault(doing, time.monotonic())
        facts = _facts(line, time.monotonic() - begun)
        title = f"{self.titles.get(doing, doing)}"
        if job.lead not in self.tasks:
            self.tasks[job.lead] = self.progress.add_task(title, total=of, facts="")
        self.progress.update(self.tasks[job.lead], description=title, completed=at, total=of, facts=facts)
        self._line(f"{title}: {at}/{of or '?'} {facts}")
        shares = [
            1.0 if is_done else at / of if id_ == doing and of else 0.0
            for id_, is_done in zip(job.stages, done, strict=True)
        ]
        return sum(share * cost for share, cost in zip(shares, job.costs, strict=True)) / (job.cost or 1)

    def _show_study(self, state: State, share: dict[str, float]) -> None:
        jobs = [*state.waiting, *state.running.values(), *state.done, *(f.job for f in state.failed), *state.blocked]
        total = sum(job.cost for job in jobs) or 1.0
        open_ = sum(job.cost for job in state.waiting) + sum(
            job.cost * (1 - share.get(job.lead, 0)) for job in state.running.values()
        )
        done = 1 - open_ / total
        elapsed = time.monotonic() - self.started
        facts = f"about {clock(elapsed * (1 - done) / done)} left" if done > 0.02 else ""
        ended = len(jobs) - len(state.waiting) - len(state.running)
        if self.study is None:
            self.study = self.progress.add_task("[bold]study (jobs)", total=len(jobs), facts="")
        self.progress.update(self.study, completed=ended, facts=facts)
        if state.running and self._line(
            f"study: {ended}/{len(jobs)} jobs, {clock(elapsed)} gone, {facts or 'time left unknown'}"
        ):
            self.printed = time.monotonic()

    def _line(self, text: str) -> bool:
        if self.console.is_terminal or time.monotonic() - self.printed < LINE_SECONDS:
            return False
        self.console.print(text, highlight=False, markup=False)
        return True


def titles_of(runs: list[dict[str, Any]]) -> dict[str, str]:
    """A short title for every stage of `resolved.json`'s runs: what it does, for which cell of the grid."""
    found: dict[str, str] = {}
    for run in runs:
        cell = f"{run['cell']['attack']} + {run['cell']['defense']}"
        for id_ in run["stages"]:
            found.setdefault(id_, f"data {cell}")
        found[run["train"]] = f"train {cell}"
        found[run["eval"]] = f"eval {cell}"
        if run["floor"]:
            found[run["floor"]] = f"eval floor of {run['cell']['attack']}"
    return found


def _facts(line: dict[str, Any], seconds: float) -> str:
    parts = []
    if "loss" in line:
        parts += [f"loss {line['loss']:.3f}", f"{line['tokens'] / max(line['seconds'], 1e-9):,.0f} tokens/s"]
        left = line["seconds"] / line["step"] * (line["steps"] - line["step"])
        parts.append(f"{clock(left)} left")
    elif line.get("rows"):
        parts.append(f"{clock(seconds / line['rows'] * (line['of'] - line['rows']))} left")
    return ", ".join(parts)
