"""Data and edit stages: build the rows and write them. Needs no model and imports no torch."""

import platform
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from p2p_dist import assets, registry
from p2p_dist.config.graph import Graph, Stage
from p2p_dist.config.stages import AttackStage, DefenseStage, EditStage, ExtraSuitesStage, PluginSpec, parse
from p2p_dist.config.study import Plugin
from p2p_dist.data import images, sources
from p2p_dist.data.attack import Attack
from p2p_dist.data.build import build_attacked, build_defended, build_edited
from p2p_dist.data.built import Built
from p2p_dist.data.data_checks import warnings
from p2p_dist.data.defense import DataDefense, EditDefense, Scores
from p2p_dist.data.extra_suites import with_extra_suites
from p2p_dist.data.input_files import digest_of
from p2p_dist.data.paraphrases import scored_rewrites
from p2p_dist.data.rewriting import RewritingAttack
from p2p_dist.data.sources import Source
from p2p_dist.data.task import Task
from p2p_dist.errors import Problem, user_error
from p2p_dist.results import atomic, datastore, scorestore
from p2p_dist.results.provenance import code_digest
from p2p_dist.results.rundir import RunDir, StageDir

RowsStage = AttackStage | DefenseStage | ExtraSuitesStage | EditStage
"""Stages whose result is rows."""


def build_study_rows(folder: RunDir, graph: Graph) -> list[Stage]:
    """Build the data stages that are missing and read no model, in this process; return all that exist then.

    Raises UserError."""
    done = folder.done(graph)
    stages: list[Stage] = []
    for stage in graph.stages.values():
        if stage.kind == "data" and (stage.id in done or set(stage.reads.values()) <= done):
            if stage.id not in done:
                folder.stage(stage).write_spec(stage)
                parsed = parse(stage)
                assert isinstance(parsed, RowsStage)
                build_stage(folder, parsed)
            done.add(stage.id)
            stages.append(stage)
    return stages


def build_stage(folder: RunDir, stage: RowsStage) -> list[str]:
    """Build the rows of one stage and return warnings about them. Raises UserError."""
    started = time.perf_counter()
    target = folder.stage(stage.stage)
    # 1. Build the rows.
    built = _build(folder, stage)
    # 2. Record the cost, then write the rows, the manifest last.
    _write_cost(target, time.perf_counter() - started)
    datastore.write(target, built, stage.stage.spec)
    # 3. Check the rows for oddities.
    return warnings(built.counts)


def _build(folder: RunDir, stage: RowsStage) -> Built:
    match stage:
        case AttackStage():
            return _attacked(folder, stage)
        case DefenseStage():
            return _defended(folder, stage)
        case ExtraSuitesStage():
            return with_extra_suites(datastore.read(folder.at("data", stage.reads.rows)), stage.suites)
        case EditStage():
            return _edited(folder, stage)


def _write_cost(target: StageDir, seconds: float) -> None:
    seconds = round(seconds, 3)
    cost = {
        "started": round(time.time() - seconds, 3),
        "seconds": seconds,
        "host": platform.node(),
        "code": code_digest(),
    }
    atomic.write_json(target.cost, cost)


def _attacked(folder: RunDir, stage: AttackStage) -> Built:
    task = _task(stage)
    source = Source(stage.local.source.kind, stage.local.source.place, stage.source)
    if source.kind == "embedded":
        assets.fetch(source.place, print)
    attack = _plugin("attacks", stage.attack, stage.local.attack)
    assert isinstance(attack, Attack)
    if stage.reads.table is not None:
        assert isinstance(attack, RewritingAttack)
        attack = attack.with_rewrites(scored_rewrites(scorestore.read(folder.at("score", stage.reads.table))))
    dropped: list[Problem] = []
    rows = sources.read(task, source, dropped, stage.rows.dev is not None)
    poison = stage.train_rows != "clean"
    built = build_attacked(task, rows, stage.rows, attack, stage.seed, poison, stage.origin, stage.prompt)
    if task.on_bad_row == "drop":
        counts = {**built.counts, "dropped": {"bad_row": len(dropped), **built.counts["dropped"]}}
        built = replace(built, counts=counts, bad_rows=tuple(dropped))
    return images.with_hashes(built, Path(source.place)) if task.reads_images else built


def _defended(folder: RunDir, stage: DefenseStage) -> Built:
    rows = datastore.read(folder.at("data", stage.reads.rows))
    task = _task(_attack_stage(folder, stage))
    defense = _plugin("defenses", stage.defense, stage.local.defense)
    assert isinstance(defense, DataDefense)
    defended = build_defended(rows, task, defense, stage.seed, _scores(folder, stage), stage.phase)
    if stage.phase is None:
        require_rows(rows, defended, stage.defense.name)
    return defended


def require_rows(attacked: Built, defended: Built, defense: str) -> None:
    """Raises UserError E289 for a defense that leaves no row to train on."""
    if attacked.train and not defended.train:
        what = f"defense {defense} left none of {len(attacked.train)} training rows"
        raise user_error("E289", what, "defense", "choose options that drop fewer rows")


def _edited(folder: RunDir, stage: EditStage) -> Built:
    rows = datastore.read(folder.find(stage.reads.rows))
    defense = _plugin("defenses", stage.defense, stage.local.defense)
    assert isinstance(defense, EditDefense)
    return build_edited(rows, defense, _scores(folder, stage), stage.phase)


def _scores(folder: RunDir, stage: DefenseStage | EditStage) -> dict[str, Scores]:
    return {role: scorestore.read(folder.at("score", id_)) for role, id_ in stage.reads.scores.items()}


def _attack_stage(folder: RunDir, stage: DefenseStage) -> AttackStage:
    """The data stage from which the rows of a defense come."""
    rows = folder.find(stage.reads.rows).parse_stage()
    while not isinstance(rows, AttackStage):
        assert isinstance(rows, DefenseStage | ExtraSuitesStage | EditStage)
        rows = folder.find(rows.reads.rows).parse_stage()
    return rows


def _task(stage: AttackStage) -> Task:
    task = _plugin("tasks", stage.task, {})
    assert isinstance(task, Task)
    return task


def _plugin(kind: str, spec: PluginSpec, paths: Mapping[str, str]) -> Plugin:
    """A plug-in with its options and the local paths of its files. Raises UserError E208 for a file that changed."""
    for option, path in paths.items():
        expected, sha256 = str(spec.options[option]), digest_of(Path(path).expanduser())
        if sha256 != expected:
            raise user_error(
                "E208",
                f"the file changed: expected sha256 {expected[:12]}, found {sha256[:12]}",
                path,
                "plan the study again",
            )
    return registry.load(kind, spec.name, spec.plugin_sha256).model_validate({**spec.options, **paths})
