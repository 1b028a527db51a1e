"""What is left to do, as jobs: the stages that one worker carries out without letting go of its model.

An adapter is evaluated where it was trained, so a train stage and the evaluations that read it are one job, unless the
rows of an evaluation wait for the job itself (a test-time defense that asks the model first). Trainings on the same
base with the same adapter shape and loss may be joined into cohorts, unless one of them waits for another.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from p2p_dist.config.graph import Graph, Stage
from p2p_dist.config.identity import canonical


@dataclass(frozen=True)
class Job:
    """`stages` in order of execution; `needs` are stages of other jobs that must be done before."""

    stages: tuple[str, ...]
    needs: frozenset[str]
    costs: tuple[float, ...]
    """Length of each stage in assumed seconds, for longest-first scheduling and the time that is left."""

    @property
    def cost(self) -> float:
        return sum(self.costs)

    @property
    def lead(self) -> str:
        """The stage under which the attempts of the job are kept."""
        return self.stages[0]


def missing_jobs(
    graph: Graph, done: Collection[str], cohort: Callable[[Stage], int], seconds: Callable[[Graph, Stage], float]
) -> list[Job]:
    """Jobs for every stage that is not done, the longest way to the end first.

    `cohort` says how many trainings at most may join one of the given kind, `seconds` how long a stage takes.
    """
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


def longest_ways(jobs: Sequence[Job], seconds: Mapping[str, float]) -> dict[str, float]:
    """Lead -> the longest time from a job's start to the end of the last job that waits for it: what decides the
    makespan. `seconds` are by lead; what is waited for and not among the jobs is there already."""
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
    """Trainings and scorings on the longest way to each stage, itself included: a stage can wait only for lower depths
    or, at its own, for cheaper kinds, so that jobs of one depth never wait for each other in a circle."""
    depth: dict[str, int] = {}
    for id_, stage in graph.stages.items():
        depth[id_] = max((depth[read] for read in stage.reads.values()), default=0) + (stage.kind in ("train", "score"))
    return depth


def _cohorts(trainings: Iterable[Stage], size: Callable[[Stage], int], depth: Mapping[str, int]) -> list[list[Stage]]:
    """Trainings that can share one forward pass, at most `size` of the first together."""
    compatible: dict[str, list[Stage]] = defaultdict(list)
    for stage in trainings:
        train = stage.spec["train"]
        alike = [
            stage.spec["model"],
            train["lora"],
            train["dtype"],
            str(train.get("quantization")),
            str(stage.spec.get("objective")),
            str(stage.spec.get("prune")),
            str(stage.spec.get("reparametrized")),
            stage.reads.get("merged", ""),
            depth[stage.id],
        ]
        compatible[canonical(alike)].append(stage)
    return [
        group[at : at + size(group[0])] for group in compatible.values() for at in range(0, len(group), size(group[0]))
    ]


def _evaluations(own: Iterable[Stage], depth: Mapping[str, int]) -> list[str]:
    """Evaluations of one adapter whose rows do not wait for any training of the same depth."""
    return [
        stage.id
        for stage in own
        if all(depth[id_] < depth[stage.reads["adapter"]] for role, id_ in stage.reads.items() if role != "adapter")
    ]


def _job(group: tuple[str, ...], graph: Graph, done: Collection[str], seconds: Callable[[Graph, Stage], float]) -> Job:
    needs = {id_ for member in group for id_ in graph.stages[member].reads.values()} - set(group) - set(done)
    return Job(group, frozenset(needs), tuple(seconds(graph, graph.stages[id_]) for id_ in group))
