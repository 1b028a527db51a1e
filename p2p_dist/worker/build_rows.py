"""The part of a worker that needs no model: build a data stage in its folder."""

import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from p2p_dist import assets, registry
from p2p_dist.config.graph import Graph, Stage
from p2p_dist.config.study import RowsSpec
from p2p_dist.data import images, sources
from p2p_dist.data.build import Built, build_attacked, build_defended, build_edited
from p2p_dist.data.data_checks import warnings
from p2p_dist.data.defense import DataDefense, EditDefense, Scores
from p2p_dist.data.extra_suites import with_extra_suites
from p2p_dist.data.sources import Source
from p2p_dist.data.task import Task
from p2p_dist.errors import user_error
from p2p_dist.results import atomic, datastore, scorestore
from p2p_dist.results.provenance import code_digest
from p2p_dist.results.rundir import RunDir


def build_study_rows(folder: RunDir, graph: Graph) -> list[Stage]:
    """Build every data stage that is not done and waits for no model, in this process; returns all that are there.
    Raises UserError."""
    there = folder.done(graph)
    stages: list[Stage] = []
    for stage in graph.stages.values():
        if stage.kind == "data" and (stage.id in there or set(stage.reads.values()) <= there):
            if stage.id not in there:
                folder.stage(stage).write_spec(stage)
                build_stage(folder, stage)
            there.add(stage.id)
            stages.append(stage)
    return stages


def build_stage(folder: RunDir, stage: Stage) -> list[str]:
    """Build the rows of one data or edit stage and write them, manifest last; returns what is odd about them, in words.

    Raises UserError."""
    started = time.perf_counter()
    built = _built(folder, stage)
    target = folder.stage(stage)
    seconds = round(time.perf_counter() - started, 3)
    atomic.write_json(
        target.cost,
        {
            "started": round(time.time() - seconds, 3),
            "seconds": seconds,
            "host": platform.node(),
            "code": code_digest(),
        },
    )
    datastore.write(target, built, stage.spec)
    return warnings(built.counts)


def _built(folder: RunDir, stage: Stage) -> Built:
    if stage.kind == "edit":
        return _edited(folder, stage)
    if stage.spec["step"] == "defend":
        return _defended(folder, stage)
    if stage.spec["step"] == "probe":
        return with_extra_suites(datastore.read(folder.at("data", stage.reads["rows"])), stage.spec["suites"])
    return _attacked(stage)


def _attacked(stage: Stage) -> Built:
    spec = stage.spec
    task = _load_task(spec["task"])
    source = Source(stage.local["source"]["kind"], stage.local["source"]["place"], spec["source"])  # type: ignore[arg-type]
    if source.kind == "embedded":
        assets.fetch(source.place, print)
    attack = _plugin("attacks", spec["attack"], stage.local.get("attack", {}))
    built = build_attacked(
        task,
        sources.read(task, source),
        RowsSpec.model_validate(spec["rows"]),
        attack,
        spec["seed"],
        spec.get("train_rows") != "clean",
    )
    return images.with_hashes(built, Path(source.place)) if task.reads_images else built


def _defended(folder: RunDir, stage: Stage) -> Built:
    attacked = folder.at("data", stage.reads["rows"])
    task = _load_task(_origin(folder, attacked.read_stage()).spec["task"])
    defense = _plugin("defenses", stage.spec["defense"], stage.local.get("defense", {}))
    assert isinstance(defense, DataDefense)
    return build_defended(
        datastore.read(attacked), task, defense, stage.spec["seed"], _scores(folder, stage), stage.spec.get("phase")
    )


def _edited(folder: RunDir, stage: Stage) -> Built:
    defense = _plugin("defenses", stage.spec["defense"], stage.local.get("defense", {}))
    assert isinstance(defense, EditDefense)
    return build_edited(
        datastore.read(folder.find(stage.reads["rows"])), defense, _scores(folder, stage), stage.spec.get("phase")
    )


def _scores(folder: RunDir, stage: Stage) -> dict[str, Scores]:
    return {role: scorestore.read(folder.at("score", id_)) for role, id_ in stage.reads.items() if role != "rows"}


def _origin(folder: RunDir, stage: Stage) -> Stage:
    """The data stage at which the rows of a stage began."""
    while stage.reads:
        stage = folder.find(stage.reads["rows"]).read_stage()
    return stage


def _load_task(spec: dict[str, Any]) -> Task:
    """The task plug-in that a stage names."""
    task = _plugin("tasks", spec, {})
    assert isinstance(task, Task)
    return task


def _plugin(kind: str, spec: dict[str, Any], paths: Mapping[str, str]) -> Any:
    """The plug-in that a stage names, its files at their places here. Raises UserError E208 for a file that changed."""
    for field, path in paths.items():
        if (found := assets.file_sha256(Path(path).expanduser())) != spec[field]:
            raise user_error(
                "E208",
                f"the file changed: expected sha256 {spec[field][:12]}, found {found[:12]}",
                path,
                "plan the study again",
            )
    options = {key: value for key, value in spec.items() if key not in ("name", registry.CODE)}
    return registry.load(kind, spec["name"], spec.get(registry.CODE)).model_validate({**options, **paths})
