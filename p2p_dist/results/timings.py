"""Measured times of finished trainings and evaluations, from the cost files of all studies in a runs folder."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from p2p_dist.config.graph import Graph, Stage
from p2p_dist.config.stages import parse
from p2p_dist.errors import Problem, UserError
from p2p_dist.planning.durations import model_of
from p2p_dist.planning.measured import Finished, Timings
from p2p_dist.results import confined, folder_handles, records
from p2p_dist.results.collect import no_garbage_collection, read_resolved
from p2p_dist.results.rundir import RunDir, StageDir


@no_garbage_collection()
def read(runs_dir: Path, models: Collection[str]) -> Timings:
    """Read the times of all finished trainings and evaluations of these models (canonical identities). Damaged and
    foreign files are named in `unread` and left out."""
    finished: list[Finished] = []
    problems: list[Problem] = []
    for path in sorted(runs_dir.iterdir()) if runs_dir.is_dir() else []:
        if path.is_dir() and confined.kind_of(RunDir(path).resolved) != "missing":
            finished += _of_study(RunDir(path), models, problems)
    return Timings(finished, [f"{problem.where}: {problem.what}" for problem in problems])


def _of_study(folder: RunDir, models: Collection[str], problems: list[Problem]) -> Iterator[Finished]:
    try:
        entries = read_resolved(folder)["stages"]
    except UserError as error:
        problems.extend(error.problems)
        return
    stages = [records.stage_of(entry) for entry in entries]
    graph = Graph({stage.id: stage for stage in stages})
    graph.stages.update(folder.stages_besides(graph, problems))
    for stage in list(graph.stages.values()):
        try:
            parse(stage)  # durations are computed from typed stages
        except UserError as error:
            problems.extend(error.problems)
            del graph.stages[stage.id]
    for id_, stage in graph.stages.items():
        if stage.kind in ("train", "eval") and _reads_are_known(graph, stage) and model_of(graph, stage) in models:
            place = folder.at(stage.kind, id_)
            with folder_handles.held_open(place.path):
                cost = records.read(place.cost, records.Cost, problems) if place.is_done() else {}
                finished = _finished(id_, graph, place, cost) if cost else None
            if finished is not None:
                yield finished


def _reads_are_known(graph: Graph, stage: Stage) -> bool:
    """True if all stages that the stage needs are in the graph: a stage of an earlier version may have lost some."""
    return all(id_ in graph.stages and _reads_are_known(graph, graph.stages[id_]) for id_ in stage.reads.values())


def _finished(id_: str, graph: Graph, place: StageDir, cost: Mapping[str, Any]) -> Finished:
    seconds = cost["seconds"]
    if place.kind == "train" and (last := place.last_metrics()):
        seconds = max(seconds, last.get("seconds") or 0.0)  # the cost of a resumed training is that of its last attempt
    on_gpu = (cost.get("gpu_seconds") or 0.0) > 0
    share = (cost.get("ranks", 1) if on_gpu else 1) / cost.get("cohort", 1)
    cores = None if on_gpu or cost.get("ranks", 1) > 1 else cost.get("threads")
    return Finished(id_, graph, seconds * share, on_gpu, str(cost.get("device") or "unnamed device"), cores)
