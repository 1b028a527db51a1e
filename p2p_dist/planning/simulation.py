"""Discrete-event simulation of a plan on nodes that fail and are repaired. Pure and deterministic for a seed.

Jobs start in the scheduler's order and by its rules (`planning.policy`). A job on a node that fails loses its work
since the last checkpoint and is retried from there. Two things differ from a real run: a process group waits until its
nodes have room, where Ray may start narrower jobs beside it, and the controller itself never dies.
"""

import heapq
import math
from bisect import insort
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Literal

from p2p_dist.planning.jobs import Job
from p2p_dist.planning.nodes import Nodes, Places, Room
from p2p_dist.planning.policy import Ending, after_exit, startable

_KILLED = -9


@dataclass(frozen=True)
class Piece:
    """A resumable part of a job: `seconds` of work, checkpointed every `every` seconds and at its end."""

    seconds: float
    every: float = math.inf


@dataclass(frozen=True)
class Load:
    """A job for the simulator: its slots, the seconds that every attempt takes to start, and its work."""

    job: Job
    width: int
    start: float
    pieces: tuple[Piece, ...]

    @property
    def work(self) -> float:
        return sum(piece.seconds for piece in self.pieces)

    @property
    def seconds(self) -> float:
        """Seconds from start to end without failures."""
        return self.start + self.work

    def surviving(self, done: float) -> float:
        """Seconds of work that survive a kill after `done` seconds."""
        saved = 0.0
        for piece in self.pieces:
            if done < saved + piece.seconds:
                return saved + (piece.every * ((done - saved) // piece.every) if piece.every < math.inf else 0.0)
            saved += piece.seconds
        return saved


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
    """Outcome of a simulation. `failures` is the number of node failures; jobs that depend on a failed one are in
    neither set."""

    spans: list[Span]
    done: frozenset[str]
    failed: frozenset[str]
    failures: int

    @property
    def makespan(self) -> float:
        """Seconds until the last attempt ended."""
        return max((span.end for span in self.spans), default=0.0)


def simulate(loads: Sequence[Load], nodes: Nodes) -> Outcome:
    """Simulate `loads`, given in the order of the plan, until nothing more can start.

    Raises ValueError for a job that does not fit even when all nodes are up.
    """
    if wide := [load.job.lead for load in loads if not nodes.can_hold(load.width)]:
        raise ValueError(f"jobs wider than {nodes.count} x {nodes.slots} slots: {', '.join(wide)}")
    run = _Run(loads, nodes)
    while run.step():
        pass
    return Outcome(run.spans, frozenset(run.done), frozenset(run.failed), run.failures)


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
    kind: Literal["1 end", "2 failure", "3 back"]
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
        self.failures = self.again = self.numbered = 0
        self.events: list[_Event] = []
        self.now = 0.0
        self.draws = [Random(f"{nodes.seed}:node-failure:{node}") for node in range(nodes.count)]
        for node in range(nodes.count):
            self._will_fail(node)

    def step(self) -> bool:
        """Start jobs, then advance to the next event. Returns False when nothing is left."""
        self._start()
        if not self.running and not self.ready:
            return False
        self.now = self.events[0].time
        while self.events and self.events[0].time == self.now:
            event = heapq.heappop(self.events)
            if event.kind == "1 end":
                self._end(self.jobs[event.subject], event.attempt)
            elif event.kind == "2 failure":
                self._fail(event.subject)
            else:
                self.room.up(event.subject)
                self._will_fail(event.subject)
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

    def _fail(self, node: int) -> None:
        """Take a node down and kill the jobs on it."""
        self.failures += 1
        for rank in sorted(self.running):
            if any(place == node for place, _ in self.jobs[rank].places):
                self._kill(self.jobs[rank])
        self.room.down(node)
        self._push(self.nodes.repair, "3 back", node)

    def _kill(self, progress: _Progress) -> None:
        worked = max(0.0, self.now - progress.begin - progress.load.start)
        saved = max(progress.saved, progress.load.surviving(progress.saved + worked))
        progress.fruitless = 0 if saved > progress.saved else progress.fruitless + 1
        decision = after_exit(Ending(_KILLED, progress.fruitless, outputs_there=False))
        self._note(progress, saved, decision.action)
        progress.saved = saved
        if decision.action == "retry":
            self.again -= 1
            self.ready.insert(0, (self.again, progress.load.job))  # as in the scheduler: interrupted jobs first
        else:
            self.failed.add(progress.load.job.lead)

    def _note(self, progress: _Progress, after: float, action: Literal["done", "retry", "fail"]) -> None:
        self.running.discard(progress.rank)
        self.room.give(progress.places)
        self.spans.append(
            Span(progress.load.job.lead, progress.places, progress.begin, self.now, progress.saved, after, action)
        )

    def _will_fail(self, node: int) -> None:
        if self.nodes.mtbf < math.inf:
            self._push(self.draws[node].expovariate(1 / self.nodes.mtbf), "2 failure", node)

    def _push(
        self, later: float, kind: Literal["1 end", "2 failure", "3 back"], subject: int, attempt: int = 0
    ) -> None:
        self.numbered += 1
        heapq.heappush(self.events, _Event(self.now + later, kind, self.numbered, subject, attempt))
