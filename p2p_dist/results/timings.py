"""Measured times of finished trainings and evaluations, from the cost files of all studies in a runs folder."""

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from p2p_dist.config.graph import Graph, Stage
from p2p_dist.config.stages import parse
from p2p_dist.errors import UserError
from p2p_dist.planning.durations import model_of
from p2p_dist.planning.measured import Finished, Timings
from p2p_dist.results.rundir import RunDir, StageDir


def read(runs_dir: Path, models: Collection[str]) -> Timings:
    """Read the times of all finished trainings and evaluations of these models (canonical identities)."""
    finished: list[Finished] = []
    unread: list[str] = []
    for path in sorted(runs_dir.iterdir()) if runs_dir.is_dir() else []:
        folder = RunDir(path)
        if folder.resolved.is_file():
            try:
                finished += _of_study(folder, models)
            except (json.JSONDecodeError, KeyError, UserError) as error:
                unread.append(f"{path}: {type(error).__name__} {error}")
    return Timings(finished, unread)


def _of_study(folder: RunDir, models: Collection[str]) -> Iterator[Finished]:
    stages = json.loads(folder.resolved.read_text())["stages"]
    graph = Graph({one["id"]: Stage(one["kind"], one["spec"], one["reads"], one["local"]) for one in stages})
    graph.stages.update(folder.stages_besides(graph))
    for stage in graph.stages.values():
        parse(stage)  # durations are computed from typed stages
    for id_, stage in graph.stages.items():
        if stage.kind in ("train", "eval") and model_of(graph, stage) in models:
            place = folder.at(stage.kind, id_)
            if place.cost.is_file() and place.is_done():
                yield _read(id_, graph, place)


def _read(id_: str, graph: Graph, place: StageDir) -> Finished:
    cost: dict[str, Any] = json.loads(place.cost.read_text())
    seconds = cost["seconds"]
    if place.kind == "train" and (last := place.last_metrics()):
        seconds = max(seconds, last.get("seconds", 0.0))  # the cost of a resumed training is that of its last attempt
    on_gpu = cost.get("gpu_seconds", 0.0) > 0
    share = (cost.get("ranks", 1) if on_gpu else 1) / cost.get("cohort", 1)
    return Finished(id_, graph, seconds * share, on_gpu, str(cost.get("device", "unnamed device")))
