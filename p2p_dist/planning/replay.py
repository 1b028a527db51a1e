"""Simulation of a plan, and an account of how the simulated nodes spent their time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from p2p_dist.config.graph import Graph
from p2p_dist.planning.checkpoint_pace import least_pause
from p2p_dist.planning.jobs import Job, longest_ways
from p2p_dist.planning.loads import Load, Piece
from p2p_dist.planning.nodes import Nodes
from p2p_dist.planning.placement import Misfit
from p2p_dist.planning.plan import Plan
from p2p_dist.planning.simulation import Outcome, simulate


@dataclass(frozen=True)
class Account:
    """Breakdown of simulated time. `makespan` and `bound` are in seconds, all others in device seconds."""

    makespan: float
    bound: float
    """Lower bound of the makespan of the finished jobs: all work over all slots, or the critical path."""
    capacity: float
    """Capacity of all devices from the first start to the last end."""
    used: float
    useful: float
    """One start and the work of every finished job."""
    starts: float
    """Part of `useful` that was spent on starting."""
    writing: float
    """Part of `useful` that was spent on writing checkpoints and results."""
    repeated: float
    """Work that was repeated because it had not been checkpointed."""
    restarts: float
    """Starts after the first one of a job."""
    given_up: float
    """Time of jobs that finally failed."""

    @property
    def lost(self) -> float:
        return self.repeated + self.restarts + self.given_up

    @property
    def goodput(self) -> float | None:
        """Useful device seconds over used ones: 1 while nothing fails. None when nothing was used."""
        return self.useful / self.used if self.used else None

    @property
    def utilisation(self) -> float | None:
        """Used device seconds over the capacity; None for an empty simulation."""
        return self.used / self.capacity if self.capacity else None

    @property
    def efficiency(self) -> float | None:
        """Device seconds of training and evaluation alone, over the capacity; None for an empty simulation."""
        return (self.useful - self.starts - self.writing) / self.capacity if self.capacity else None


CHECKPOINT_EVERY = 50
"""Steps between two checkpoints: the default of `p2p-dist run`."""


@dataclass(frozen=True)
class Overheads:
    """Time and steps that jobs take beside their work."""

    checkpoint_every: int = CHECKPOINT_EVERY
    """Steps of a training between two checkpoints."""
    start: float | None = None
    """Seconds that every attempt takes to start. None: as assumed."""
    write: float = 0.0
    """Seconds that writing a checkpoint, an adapter or a result takes."""


def replay(plan: Plan, graph: Graph, nodes: Nodes, overheads: Overheads) -> tuple[Outcome, Account]:
    """Simulate the jobs of a plan that fit."""
    loads = loads_of(plan, graph, overheads)
    outcome = simulate(loads, nodes)
    return outcome, account(loads, outcome, nodes)


def loads_of(plan: Plan, graph: Graph, overheads: Overheads) -> list[Load]:
    """Loads of the jobs that fit, in order. Jobs that only build rows take no time."""
    jobs = [job for job in plan.jobs if not isinstance(plan.placement(job), Misfit)]
    start = plan.rates.start_seconds if overheads.start is None else overheads.start
    return [
        Load(job, plan.width(job), start if job.cost else 0.0, _pieces(job, plan, graph, overheads)) for job in jobs
    ]


def _pieces(job: Job, plan: Plan, graph: Graph, overheads: Overheads) -> tuple[Piece, ...]:
    """Resumable pieces of a job: the trainings of a cohort advance and are checkpointed together; other stages are not
    checkpointed."""
    width = plan.width(job)
    stages = [(graph.stages[id_], seconds / width) for id_, seconds in zip(job.stages, job.costs, strict=True)]
    trained = sum(seconds for stage, seconds in stages if stage.kind == "train")
    steps = max((plan.rates.steps(graph, stage) for stage, _ in stages if stage.kind == "train"), default=0)
    write = overheads.write
    cohort = [_training(trained, steps, overheads)] if trained else []
    others = (Piece(seconds + write, written=write) for stage, seconds in stages if stage.kind != "train" and seconds)
    return (*cohort, *others)


def _training(seconds: float, steps: int, overheads: Overheads) -> Piece:
    """A training of `steps` steps in `seconds`, with the writing of its checkpoints and of its adapter."""
    pause, write = seconds * overheads.checkpoint_every / steps, overheads.write
    pause *= max(1, math.ceil(least_pause(write) / pause))
    written = write * math.ceil(seconds / pause - 1e-9)
    return Piece(seconds + written, pause + write, written)


def account(loads: Sequence[Load], outcome: Outcome, nodes: Nodes) -> Account:
    """Add up the time of all attempts."""
    of = {load.job.lead: load for load in loads}
    used = useful = starts = writing = repeated = restarts = given_up = 0.0
    for span in outcome.spans:
        load, seconds = of[span.lead], span.end - span.begin
        starting = min(load.start, seconds)
        used += load.width * seconds
        if span.lead not in outcome.done:
            given_up += load.width * seconds
        elif span.action == "done":
            useful += load.width * load.seconds
            starts += load.width * load.start
            writing += load.width * load.written
        if span.lead in outcome.done:
            repeated += load.width * (seconds - starting - (span.after - span.before))
            restarts += load.width * (starting - (load.start if span.action == "done" else 0.0))
    ended = [load for load in loads if load.job.lead in outcome.done]
    slots = nodes.count * nodes.slots
    longest = max(
        longest_ways([load.job for load in ended], {load.job.lead: load.seconds for load in ended}).values(),
        default=0.0,
    )
    bound = max(longest, sum(load.width * load.seconds for load in ended) / slots)
    return Account(
        outcome.makespan, bound, slots * outcome.makespan, used, useful, starts, writing, repeated, restarts, given_up
    )
