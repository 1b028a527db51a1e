"""Time that a study still needs: planned seconds, corrected by measured ones, without jumps.

A job is a start (imports, loading the base, the first sign of work) and its work. Both are planned. What the jobs have
measured since corrects the plan kind by kind, and weighs the more the more of it there is; so a start that took long
says nothing about trainings, and the first steps of one training do not turn the estimate over.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from p2p_dist.planning.jobs import Job, longest_ways

PLAN_SECONDS = 10.0
"""Planned work that the plan's own word counts for beside measured work, in seconds."""
PLAN_SHARE = 0.01
"""The same as a share of all work, where that is less."""
PLAN_START_WEIGHT = 0.5
"""Measured starts that the planned one counts for."""
STARTS = 4
"""Measured starts that count: with workers that stay, later ones are shorter."""
SMOOTHING_SECONDS = 3.0
"""Time constant of the smoothing."""
FASTEST = math.log(1.8) / 15
"""Most by which the logarithm of the time left moves in a second, beside running on: 1.8 times in 15 seconds."""
FEW = 20
"""Jobs for each slot up to which they are laid out one by one; the ends of more of them differ little."""


@dataclass
class _Attempt:
    """A running job as it was seen: at first, and at the first sign of work."""

    job: Job
    kind: str
    begun: float
    first_share: float
    worked: float | None = None
    worked_share: float = 0.0
    share: float = 0.0

    def see(self, now: float, share: float) -> None:
        """Note the share of the job that is done."""
        if self.worked is None and share > self.first_share:
            self.worked, self.worked_share = now, share
        self.share = share


@dataclass
class _Measured:
    """Sums over the jobs of one kind: planned seconds of work that is done, and what it and the starts took."""

    planned: float = 0.0
    worked: float = 0.0
    starts: list[float] = field(default_factory=list)


class TimeLeft:
    """The time left of one study; hand it every state in turn. Times are seconds on one clock."""

    def __init__(self, jobs: Sequence[Job], slots: int, start_seconds: float, width: Callable[[Job], int]):
        self.slots, self.start_seconds, self.width = slots, start_seconds, width
        work = sum(job.cost for job in jobs)
        self.plan_weight = max(1e-3, min(PLAN_SECONDS, PLAN_SHARE * work))
        self.attempts: dict[str, _Attempt] = {}
        self.measured: dict[str, _Measured] = defaultdict(_Measured)
        self.own_work = self.others_work = 0.0
        self.waited_for: dict[str, Job] = {}
        self.shown: tuple[float, float] | None = None

    def update(
        self,
        now: float,
        running: Mapping[str, Job],
        waiting: Collection[Job],
        share_of: Callable[[Job], float],
        kind_of: Callable[[Job], str],
        blocked: Collection[Job] = (),
    ) -> float:
        """Smoothed seconds until the last job ends. `running` is by attempt; `share_of` says how much of a job is done,
        0 to 1; `blocked` jobs will not run."""
        self._note_others(running, waiting, blocked)
        for name in set(self.attempts) - set(running):
            self._end(now, self.attempts.pop(name))
        for name, job in running.items():
            if name not in self.attempts:
                share = share_of(job)
                self.attempts[name] = _Attempt(job, kind_of(job), now, share, share=share)
            self.attempts[name].see(now, share_of(job))
        return self._smooth(now, self.estimate(now, waiting, kind_of))

    def estimate(self, now: float, waiting: Collection[Job], kind_of: Callable[[Job], str]) -> float:
        """Seconds left by what is known now: all open work over all slots, or the longest chain of jobs."""
        factors = self._factors(now)
        seconds = {job.lead: self._start(now, kind_of(job)) + job.cost * factors(kind_of(job)) for job in waiting}
        for attempt in self.attempts.values():
            starting = attempt.worked is None and attempt.share < 1
            loading = max(0.0, self._start(now, attempt.kind) - (now - attempt.begun)) if starting else 0.0
            work = attempt.job.cost * (1 - attempt.share) * factors(attempt.kind)
            seconds[attempt.job.lead] = loading + work
        jobs = [*waiting, *(attempt.job for attempt in self.attempts.values())]
        if not jobs:
            return 0.0
        helpers = self.others_work / self.own_work if self.own_work else 0.0
        taken = [attempt.job for attempt in self.attempts.values() for _ in range(self.width(attempt.job))]
        running = [seconds[job.lead] for job in taken]
        together = makespan(running, [(seconds[job.lead], self.width(job)) for job in waiting], self.slots)
        return max(together / (1 + helpers), *longest_ways(jobs, seconds).values())

    def _factors(self, now: float) -> Callable[[str], float]:
        """Measured over planned seconds of work by kind; of a kind without measurements that of all kinds."""
        planned, worked = defaultdict[str, float](float), defaultdict[str, float](float)
        for kind, sums in self.measured.items():
            planned[kind], worked[kind] = sums.planned, sums.worked
        for attempt in self.attempts.values():
            if attempt.worked is not None:
                planned[attempt.kind] += attempt.job.cost * (attempt.share - attempt.worked_share)
                worked[attempt.kind] += now - attempt.worked
        weight = self.plan_weight
        overall = (weight + sum(worked.values())) / (weight + sum(planned.values()))
        return lambda kind: (weight * overall + worked[kind]) / (weight + planned[kind])

    def _start(self, now: float, kind: str) -> float:
        """Seconds from the start of a job to its first sign of work: the mean of the last measured ones and, at a
        smaller weight, the planned ones. A start that is under way counts when it lasts longer than that."""
        of_running = (a.worked - a.begun for a in self.attempts.values() if a.kind == kind and a.worked is not None)
        starts = [*self.measured[kind].starts, *of_running][-STARTS:]
        mean = (PLAN_START_WEIGHT * self.start_seconds + sum(starts)) / (PLAN_START_WEIGHT + len(starts))
        waiting = [a for a in self.attempts.values() if a.kind == kind and a.worked is None]
        starts += [now - attempt.begun for attempt in waiting if now - attempt.begun > mean]
        return (PLAN_START_WEIGHT * self.start_seconds + sum(starts)) / (PLAN_START_WEIGHT + len(starts))

    def _end(self, now: float, attempt: _Attempt) -> None:
        """Keep what an attempt that is gone has measured. An attempt that was killed counts as far as it got."""
        sums = self.measured[attempt.kind]
        sums.starts.append((now if attempt.worked is None else attempt.worked) - attempt.begun)
        done = 1.0 if attempt.job.lead not in self.waited_for else attempt.share
        self.own_work += attempt.job.cost * max(0.0, done - attempt.first_share)
        if attempt.worked is not None:
            sums.planned += attempt.job.cost * max(0.0, done - attempt.worked_share)
            sums.worked += now - attempt.worked

    def _note_others(self, running: Mapping[str, Job], waiting: Collection[Job], blocked: Collection[Job]) -> None:
        """Count the work of jobs that waited and are done without having run here: other controllers share the work."""
        still = {job.lead: job for job in waiting}
        here = (*running.values(), *(attempt.job for attempt in self.attempts.values()), *blocked)
        leads = {job.lead for job in here}
        self.others_work += sum(
            job.cost for lead, job in self.waited_for.items() if lead not in still and lead not in leads
        )
        self.waited_for = still

    def _smooth(self, now: float, estimate: float) -> float:
        """Let the time that was shown run on, and draw it towards the estimate, by ratios and no faster than
        `FASTEST`: half and double weigh the same."""
        if self.shown is None:
            self.shown = (now, estimate)
            return estimate
        before, shown = self.shown
        passed = now - before
        run_on, target = max(1.0, shown - passed), max(1.0, estimate)
        wanted = math.log(target / run_on) * (1 - math.exp(-passed / SMOOTHING_SECONDS))
        smoothed = run_on * math.exp(max(-FASTEST * passed, min(FASTEST * passed, wanted)))
        self.shown = (now, smoothed)
        return smoothed


def makespan(running: Sequence[float], waiting: Sequence[tuple[float, int]], slots: int) -> float:
    """Seconds until all slots are free: `running` are those until each taken slot is; `waiting` are the seconds and
    slots of the jobs that follow, each of which takes the slots that are free first. Many jobs are shared out evenly.
    """
    if len(waiting) > FEW * slots:
        return (sum(running) + sum(seconds * width for seconds, width in waiting)) / slots
    ends = sorted([*running, *[0.0] * (slots - len(running))])
    for seconds, width in waiting:
        taken = min(width, len(ends))
        ends = sorted([*ends[taken:], *[ends[taken - 1] + seconds] * taken])
    return ends[-1]
