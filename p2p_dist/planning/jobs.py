"""Missing stages grouped into jobs: a job is the stages that one worker runs while it holds one model.

An adapter is evaluated where it was trained, so a train stage and the evaluations that read it are one job, unless the
rows of an evaluation depend on the job itself (a test-time defense that queries the model first). Trainings on the same
base with the same adapter shape and loss may be joined into a cohort (a multi-adapter batch), unless one depends on
another.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property

from p2p_dist.config.graph import Graph, Stage
from p2p_dist.config.stages import TrainStage, parse


@dataclass(frozen=True)
class Job:
    """Stages in order of execution, with the inputs of each that were missing when the study was planned."""

    stages: tuple[str, ...]
    inputs: tuple[frozenset[str], ...]
    costs: tuple[float, ...]
    """Assumed seconds of each stage, for longest-first scheduling and the remaining time."""
    whole: str = ""
    """For a part of a planned job: the lead of the whole one."""

    @cached_property
    def needs(self) -> frozenset[str]:
        """Stages of other jobs that must be done first."""
        return frozenset[str]().union(*self.inputs).difference(self.stages)

    def part(self, stages: Collection[str]) -> "Job":
        """The job with these of its stages alone."""
        keep = [index for index, id_ in enumerate(self.stages) if id_ in stages]
        stages_, inputs = tuple(self.stages[index] for index in keep), tuple(self.inputs[index] for index in keep)
        return Job(stages_, inputs, tuple(self.costs[index] for index in keep), self.claim)

    @property
    def claim(self) -> str:
        """Id of the stage in whose folder the job is leased. Parts of one job share it, so that no other controller
        runs the whole beside them."""
        return self.whole or self.lead

    @property
    def cost(self) -> float:
        return sum(self.costs)

    @property
    def lead(self) -> str:
        """Id of the stage in whose folder the attempts of the job are recorded."""
        return self.stages[0]


def missing_jobs(
    graph: Graph, done: Collection[str], cohort: Callable[[Stage], int], seconds: Callable[[Graph, Stage], float]
) -> list[Job]:
    """Jobs for all stages that are not done, longest critical path first.

    `cohort` returns the maximum cohort size for a training like the given one, `seconds` the duration of a stage.
    """
    done = frozenset(done)
    missing = {id_: stage for id_, stage in graph.stages.items() if id_ not in done}
    depth = _depths(graph)
    groups: list[tuple[str, ...]] = [
        (stage.id,) for stage in missing.values() if stage.kind in ("data", "edit", "score")
    ]
    by_adapter: dict[str, list[Stage]] = defaultdict(list)
    for stage in missing.values():
        if stage.kind == "eval":
            by_adapter[stage.reads["adapter"]].append(stage)
    for joined in _cohorts([stage for stage in missing.values() if stage.kind == "train"], cohort, depth):
        members = [stage.id for stage in joined]
        groups.append((*members, *(id_ for member in members for id_ in _evaluations(by_adapter[member], depth))))
    taken = {id_ for group in groups for id_ in group}
    rest: dict[tuple[str, int], list[str]] = defaultdict(list)
    for stage in missing.values():
        if stage.id not in taken:
            rest[stage.reads["adapter"], depth[stage.id]].append(stage.id)
    groups += [tuple(group) for group in rest.values()]
    jobs = [_job(group, graph, done, seconds) for group in groups]
    ways = longest_ways(jobs, {job.lead: job.cost for job in jobs})
    return sorted(jobs, key=lambda job: -ways[job.lead])


def without_lost(job: Job, lost: Collection[str]) -> tuple[Job | None, Job | None]:
    """Split a job into the stages that can still be done and those that depend on a lost one. Either may be None."""
    gone = set(lost)
    for id_, inputs in zip(job.stages, job.inputs, strict=True):
        if not inputs.isdisjoint(gone):
            gone.add(id_)
    cut = [id_ for id_ in job.stages if id_ in gone]
    if not cut:
        return job, None
    sound = [id_ for id_ in job.stages if id_ not in gone]
    return (job.part(sound) if sound else None), job.part(cut)


def parts_that_fail_alone(job: Job) -> list[Job]:
    """The parts of a job of which one may fail without the others: a training or an evaluation that depends on nothing
    else in the job, with all that depends on it."""
    inputs = dict(zip(job.stages, job.inputs, strict=True))
    part_of: dict[str, str] = {}
    for id_ in job.stages:
        part_of[id_] = next((part_of[other] for other in part_of if other in inputs[id_]), id_)
    parts = defaultdict[str, list[str]](list)
    for id_, first in part_of.items():
        parts[first].append(id_)
    return [job.part(stages) for stages in parts.values()]


def dependents(of: Collection[str], jobs: Iterable[Job]) -> list[str]:
    """Stages of jobs that depend on others, directly or not, in their order."""
    inputs = {id_: needed for job in jobs for id_, needed in zip(job.stages, job.inputs, strict=True)}
    lost = set(of)
    while more := {id_ for id_, needed in inputs.items() if id_ not in lost and not needed.isdisjoint(lost)}:
        lost |= more
    return [id_ for id_ in inputs if id_ in lost.difference(of)]


def longest_ways(jobs: Sequence[Job], seconds: Mapping[str, float]) -> dict[str, float]:
    """Critical path of each job by lead: the longest time from its start to the end of the last job that depends on it.

    `seconds` are by lead. Stages that are needed and belong to no job are already done.
    """
    by_stage = {id_: job for job in jobs for id_ in job.stages}
    waiting: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        for lead in {by_stage[id_].lead for id_ in job.needs if id_ in by_stage}:
            waiting[lead].append(job)
    ways: dict[str, float] = {}

    def way(job: Job) -> float:
        if job.lead not in ways:
            ways[job.lead] = seconds[job.lead] + max((way(later) for later in waiting[job.lead]), default=0.0)
        return ways[job.lead]

    for job in jobs:
        way(job)
    return ways


def _depths(graph: Graph) -> dict[str, int]:
    """Number of trainings and scorings on the longest path to each stage, itself included. A stage depends only on
    lower depths or, at its own, on cheaper kinds, so jobs of one depth never depend on each other in a cycle."""
    depth: dict[str, int] = {}
    for id_, stage in graph.stages.items():
        depth[id_] = max((depth[read] for read in stage.reads.values()), default=0) + (stage.kind in ("train", "score"))
    return depth


def _cohorts(trainings: Iterable[Stage], size: Callable[[Stage], int], depth: Mapping[str, int]) -> list[list[Stage]]:
    """Group trainings that can share one forward pass, at most `size` of the first in a group."""
    compatible: dict[tuple[object, ...], list[Stage]] = defaultdict(list)
    for stage in trainings:
        compatible[*_shared_settings(stage), depth[stage.id]].append(stage)
    return [
        group[first : first + size(group[0])]
        for group in compatible.values()
        for first in range(0, len(group), size(group[0]))
    ]


def _shared_settings(stage: Stage) -> tuple[object, ...]:
    """The settings of a training that must be equal within a cohort."""
    typed = parse(stage)
    assert isinstance(typed, TrainStage)
    train, methods = typed.train, (typed.objective, typed.prune, typed.reparametrized, typed.align)
    alone = typed.id if train.is_full else ""  # one training holds the whole model
    same = (train.lora, train.dtype, train.quantization, train.compile)
    return (stage.model, alone, *same, *methods, typed.reads.merged)


def _evaluations(evaluations: Iterable[Stage], depth: Mapping[str, int]) -> list[str]:
    """Those evaluations of one adapter whose rows do not depend on a training of the same depth."""
    return [
        stage.id
        for stage in evaluations
        if all(depth[id_] < depth[stage.reads["adapter"]] for role, id_ in stage.reads.items() if role != "adapter")
    ]


def _job(group: tuple[str, ...], graph: Graph, done: Set[str], seconds: Callable[[Graph, Stage], float]) -> Job:
    inputs = tuple(frozenset(graph.stages[id_].reads.values()) - done for id_ in group)
    return Job(group, inputs, tuple(seconds(graph, graph.stages[id_]) for id_ in group))
