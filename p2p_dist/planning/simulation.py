"""Discrete-event simulation of a plan on nodes that fail, are preempted and lose devices. Pure and deterministic for a
seed.

Jobs start in the scheduler's order and by its rules (`planning.policy`). A job whose node or device fails loses its
work since the last checkpoint and is retried from there; one whose node is preempted writes a checkpoint first. A
device that failed stays out of use, and jobs that are too wide for what is left are given up. Two things differ from a
real run: a process group waits until its nodes have room, where Ray may start narrower jobs beside it, and the
controller itself never dies.
"""

import heapq
import math
from bisect import insort
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Literal

from p2p_dist.errors import Exit, user_error
from p2p_dist.planning.jobs import Job
from p2p_dist.planning.loads import Load
from p2p_dist.planning.nodes import Nodes, Places, Room
from p2p_dist.planning.policy import Ending, after_exit, startable

_KILLED = -9
_MOST_EVENTS = 1000
"""Events per node without any progress after which a simulation would not end."""
_Kind = Literal["1 end", "2 failure", "3 preemption", "4 device", "5 back"]
_PURPOSES: Mapping[_Kind, str] = {"2 failure": "node-failure", "3 preemption": "preemption", "4 device": "device"}
"""Names of the streams of random numbers."""


@dataclass(frozen=True)
class Span:
    """One attempt at a job: places, times, completed work of the job before and after it, and how it ended."""

    lead: str
    places: Places
    begin: float
    end: float
    before: float
    after: float
    action: Literal["done", "retry", "fail"]


@dataclass(frozen=True)
class Outcome:
    """Outcome of a simulation. Jobs that depend on a failed one are in neither set."""

    spans: list[Span]
    done: frozenset[str]
    failed: frozenset[str]
    failures: int
    """Failures of nodes."""
    preemptions: int
    lost_devices: int

    @property
    def makespan(self) -> float:
        """Seconds until the last attempt ended."""
        return max((span.end for span in self.spans), default=0.0)


def simulate(loads: Sequence[Load], nodes: Nodes) -> Outcome:
    """Simulate `loads`, given in the order of the plan, until nothing more can start.

    Raises ValueError for a job that does not fit even when all nodes are up, UserError E143 where nodes leave so often
    that no job gets any further.
    """
    if wide := [load.job.lead for load in loads if not nodes.can_hold(load.width)]:
        raise ValueError(f"jobs wider than {nodes.count} x {nodes.slots} slots: {', '.join(wide)}")
    run = _Run(loads, nodes)
    while run.step():
        pass
    lost = nodes.count * nodes.slots - sum(run.room.sound)
    return Outcome(run.spans, frozenset(run.done), frozenset(run.failed), run.failures, run.preemptions, lost)


@dataclass
class _Progress:
    """Progress of one job over its attempts."""

    load: Load
    rank: int
    saved: float = 0.0
    fruitless: int = 0
    attempts: int = 0
    begin: float = 0.0
    places: Places = ()


@dataclass(order=True)
class _Event:
    time: float
    kind: _Kind
    number: int
    subject: int = field(compare=False)
    attempt: int = field(compare=False, default=0)


class _Run:
    """The state of a simulation."""

    def __init__(self, loads: Sequence[Load], nodes: Nodes):
        self.nodes, self.room = nodes, Room(nodes)
        self.jobs = [_Progress(load, rank) for rank, load in enumerate(loads)]
        self.rank = {load.job.lead: rank for rank, load in enumerate(loads)}
        by_stage = {id_: rank for rank, load in enumerate(loads) for id_ in load.job.stages}
        self.open = {rank: {by_stage.get(id_, -1) for id_ in load.job.needs} for rank, load in enumerate(loads)}
        """Rank -> the jobs it still depends on; -1 stands for one that is not among the loads."""
        self.dependents: dict[int, list[int]] = defaultdict(list)
        for rank, needed in self.open.items():
            for other in needed:
                self.dependents[other].append(rank)
        self.ready: list[tuple[int, Job]] = [(rank, load.job) for rank, load in enumerate(loads) if not self.open[rank]]
        self.finished: set[str] = set()
        self.running: set[int] = set()
        self.spans: list[Span] = []
        self.done: set[str] = set()
        self.failed: set[str] = set()
        self.failures = self.preemptions = self.again = self.numbered = 0
        self.in_vain = 0
        """Events since a job last got further or ended."""
        self.events: list[_Event] = []
        self.now = 0.0
        self.away: set[int] = set()
        self.leavings = [0] * nodes.count
        """How often each node has left; what was expected of it before is void."""
        self.draws: dict[_Kind, list[Random]] = {
            kind: [Random(f"{nodes.seed}:{purpose}:{node}") for node in range(nodes.count)]
            for kind, purpose in _PURPOSES.items()
        }
        for node in range(nodes.count):
            self._will_leave(node)
            self._will_lose_device(node)

    def step(self) -> bool:
        """Start jobs, then advance to the next event. Returns False when nothing is left."""
        self._start()
        if not self.running and not self.ready:
            return False
        self.now = self.events[0].time
        while self.events and self.events[0].time == self.now:
            event = heapq.heappop(self.events)
            self.in_vain += 1
            if event.kind == "1 end":
                self._end(self.jobs[event.subject], event.attempt)
            elif event.kind == "4 device":
                self._lose_device(event.subject)
            elif event.kind == "5 back":
                self.away.discard(event.subject)
                self.room.up(event.subject)
                self._will_leave(event.subject)
            elif event.attempt == self.leavings[event.subject]:
                self._leave(event.subject, asked=event.kind == "3 preemption")
        if self.in_vain > _MOST_EVENTS * self.nodes.count:
            what = f"no job gets any further after {self.now / 3600:,.1f} simulated hours: nodes leave too often"
            raise user_error("E143", what, "--mtbf, --preempted, --repair", "simulate longer times between two events")
        return True

    def _start(self) -> None:
        started = 0

        def fits(job: Job) -> bool:
            return self.room.find(self.jobs[self.rank[job.lead]].load.width) is not None

        for job in startable((job for _, job in self.ready), self.finished, fits):
            self._begin(self.jobs[self.rank[job.lead]])
            started += 1
        del self.ready[:started]

    def _begin(self, progress: _Progress) -> None:
        places = self.room.find(progress.load.width)
        assert places is not None
        self.room.take(places)
        progress.places, progress.begin = places, self.now
        progress.attempts += 1
        self.running.add(progress.rank)
        seconds = progress.load.start + progress.load.work - progress.saved
        self._push(seconds, "1 end", progress.rank, progress.attempts)

    def _end(self, progress: _Progress, attempt: int) -> None:
        if progress.rank not in self.running or attempt != progress.attempts:
            return  # that attempt was killed
        self._note(progress, progress.load.work, "done")
        self.done.add(progress.load.job.lead)
        self.finished.update(progress.load.job.stages)
        for rank in self.dependents[progress.rank]:
            self.open[rank].discard(progress.rank)
            if not self.open[rank]:
                insort(self.ready, (rank, self.jobs[rank].load.job), key=lambda entry: entry[0])
                self._give_up_too_wide(rank)

    def _leave(self, node: int, asked: bool) -> None:
        """Take a node down and stop the jobs on it: a failure, or a preemption, before which they are asked to stop."""
        self.failures += not asked
        self.preemptions += asked
        for rank in sorted(self.running):
            if any(place == node for place, _ in self.jobs[rank].places):
                self._stop(self.jobs[rank], Exit.REQUEUE if asked else _KILLED)
        self.room.down(node)
        self.away.add(node)
        self.leavings[node] += 1
        self._push(self.nodes.repair, "5 back", node)

    def _lose_device(self, node: int) -> None:
        """Take one of a node's devices out of use, and end the job on it. It is any of them, so that one which has
        failed before, or whose node is away, changes nothing."""
        device = self.draws["4 device"][node].randrange(self.nodes.slots)
        if node not in self.away and device < self.room.sound[node]:
            if (rank := self._user_of(node, device)) is not None:
                self._stop(self.jobs[rank], Exit.DEVICE)
            self.room.quarantine(node)
            self._give_up_too_wide(*(self.rank[job.lead] for _, job in self.ready))
        self._will_lose_device(node)

    def _user_of(self, node: int, device: int) -> int | None:
        """Rank of the job on a device of a node, whose running jobs take its first devices in order; None if idle."""
        for rank in sorted(self.running):
            device -= dict(self.jobs[rank].places).get(node, 0)
            if device < 0:
                return rank
        return None

    def _give_up_too_wide(self, *ranks: int) -> None:
        """Fail those of these jobs, which are ready, that no longer fit on the devices that work."""
        loads = (self.jobs[rank].load for rank in ranks)
        lost = {load.job.lead for load in loads if not self.room.can_hold(load.width)}
        if lost:
            self.failed |= lost
            self.ready = [(order, job) for order, job in self.ready if job.lead not in lost]

    def _stop(self, progress: _Progress, code: int) -> None:
        """End an attempt with an exit code, and put its job in front of those that wait, or give it up."""
        worked = progress.saved + max(0.0, self.now - progress.begin - progress.load.start)
        saved = max(progress.saved, progress.load.surviving(worked, asked=code == Exit.REQUEUE))
        progress.fruitless = 0 if saved > progress.saved else progress.fruitless + (code != Exit.REQUEUE)
        decision = after_exit(Ending(code, progress.fruitless, outputs_there=False))
        self._note(progress, saved, decision.action)
        progress.saved = saved
        if decision.action == "retry":
            self.again -= 1
            self.ready.insert(0, (self.again, progress.load.job))  # as in the scheduler: interrupted jobs first
        else:
            self.failed.add(progress.load.job.lead)

    def _note(self, progress: _Progress, after: float, action: Literal["done", "retry", "fail"]) -> None:
        if after > progress.saved or action != "retry":
            self.in_vain = 0
        self.running.discard(progress.rank)
        self.room.give(progress.places)
        self.spans.append(
            Span(progress.load.job.lead, progress.places, progress.begin, self.now, progress.saved, after, action)
        )

    def _will_leave(self, node: int) -> None:
        """Draw when a node that is up fails, and when it is preempted; the earlier one counts."""
        self._draw("2 failure", node, self.nodes.mtbf, self.leavings[node])
        self._draw("3 preemption", node, self.nodes.preempted, self.leavings[node])

    def _will_lose_device(self, node: int) -> None:
        self._draw("4 device", node, self.nodes.device_mtbf / self.nodes.slots)

    def _draw(self, kind: _Kind, node: int, mean: float, attempt: int = 0) -> None:
        if mean < math.inf:
            self._push(self.draws[kind][node].expovariate(1 / mean), kind, node, attempt)

    def _push(self, later: float, kind: _Kind, subject: int, attempt: int = 0) -> None:
        self.numbered += 1
        heapq.heappush(self.events, _Event(self.now + later, kind, self.numbered, subject, attempt))
