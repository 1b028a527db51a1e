"""Expansion of a study into runs and the graph of stages that they share.

Pure: sources, file hashes and models are looked up by the caller.
"""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from p2p_dist.config.builder import Builder, Evaluation
from p2p_dist.config.combinations import Combination, RowSource, settings_of
from p2p_dist.config.compiled_layers import is_compiled, reason_against_compiling
from p2p_dist.config.exclusions import check_exclude, matches
from p2p_dist.config.full_parameter import is_full, reason_against
from p2p_dist.config.graph import Graph, Stage
from p2p_dist.config.labels import plugin_labels
from p2p_dist.config.model import ModelRef
from p2p_dist.config.plugin_files import FilePlace, LeftOut, left_out
from p2p_dist.config.run_settings import Settings
from p2p_dist.config.study import StudySpec
from p2p_dist.config.training_axis import TRAINING
from p2p_dist.config.training_axis import labels as training_labels
from p2p_dist.errors import Problem, UserError, user_error

AXES = ("task", "model", "attack", "defense", "seed")
"""Axes of every cell. A study with several trainings has the axis `training` too (`config.training_axis`)."""
_WRONG_KIND = {
    "generation": "it needs labels, and the task is answered with text",
    "classification": "it checks an answer token by token, and the task is answered with a label",
}


@dataclass(frozen=True)
class Run:
    """One cell of the grid: its label on every axis, and its stages."""

    cell: Mapping[str, str]
    train: str
    """Id of the training of the evaluated adapter."""
    evaluation: str
    """Id of the evaluation."""
    floor: str | None
    """Id of the clean-model baseline: the clean model on this run's triggered rows, if the study trains one."""
    stages: tuple[str, ...]
    """Ids of all stages, inputs first."""
    needs: Mapping[str, Any] = field(default_factory=dict)
    """Assumptions of its defense: clean rows, further models, prompts, and the source of the method."""

    def to_json(self) -> dict[str, Any]:
        """The run as `resolved.json` holds it."""
        ends = {"train": self.train, "eval": self.evaluation, "floor": self.floor}
        return {"cell": dict(self.cell), **ends, "stages": list(self.stages), "needs": dict(self.needs)}


@dataclass(frozen=True)
class Expansion:
    """All runs of a study and the graph of their stages."""

    runs: Sequence[Run]
    graph: Graph
    combinations: Sequence[Combination] = ()
    """Values of the runs, in their order."""
    left_out: Sequence[LeftOut] = ()
    """Cells of the grid that read a file which this machine lacks."""


@dataclass(frozen=True)
class _Planned:
    """The stages of a combination before its baseline is added."""

    combination: Combination
    builder: Builder
    rows: Stage
    evaluation: Stage


def expand(
    study: StudySpec,
    sources: Sequence[RowSource],
    files: Mapping[str, FilePlace],
    models: Mapping[str, ModelRef] | None = None,
    missing: Mapping[str, str] | None = None,
) -> Expansion:
    """Every combination that `exclude` does not name and whose files are at hand.

    `sources` belong to the study's tasks in their order; `files` has every file that an option names, by its path;
    `models` are the further models of plug-ins by name; `missing` are reasons by the paths of files that this machine
    lacks. Raises UserError E103 for an exclude of an unknown axis, E120 when nothing is left, E201 when nothing is left
    but what lacks a file, E223 and E260 for every combination that its attack or its defense does not support.
    """
    combinations = _combinations(study, sources)
    cells_left_out = [reason for one in combinations if (reason := _without_files(one, missing or {}))]
    if cells_left_out and len(cells_left_out) == len(combinations):
        reasons = "; ".join(dict.fromkeys(one.reason for one in cells_left_out))
        raise user_error("E201", f"every run reads a missing file: {reasons}", fix="make these files (docs/attacks.md)")
    combinations = [one for one in combinations if not _without_files(one, missing or {})]
    if problems := [problem for one in combinations if (problem := _incompatibility(one, study))]:
        raise UserError(*dict.fromkeys(problems))
    if not combinations:
        raise user_error("E120", "every combination is excluded", "exclude", "remove a rule")
    graph = Graph()
    pairs = zip(combinations, settings_of(combinations, study, files, models or {}), strict=True)
    planned = {tuple(one.cell.values()): _plan(one, settings, graph) for one, settings in pairs}
    unusual = any(is_full(stage) or is_compiled(stage) for stage in graph.stages.values())
    if problems := [problem for one in planned.values() if unusual and (problem := _unfit_training(one, graph))]:
        raise UserError(*dict.fromkeys(problems))
    if len(planned) < len(combinations):
        cells = Counter(tuple(one.cell.values()) for one in combinations)
        twice = next(" × ".join(cell) for cell, count in cells.items() if count > 1)
        what = f"two runs have one name: {twice}"
        raise user_error("E128", what, "study", "remove one of the two, or change an option of it")
    needs = {id(defense): asdict(defense.assumptions()) for defense in study.defense}
    floors: dict[tuple[str, str], Stage] = {}
    runs = [
        _run(one, _floor(one, planned, graph, floors), graph, needs[id(one.combination.defense)])
        for one in planned.values()
    ]
    return Expansion(runs, graph, combinations, cells_left_out)


def _without_files(one: Combination, missing: Mapping[str, str]) -> LeftOut | None:
    return left_out(one.cell, {"attack": one.attack, "defense": one.defense}, missing)


def _combinations(study: StudySpec, sources: Sequence[RowSource]) -> list[Combination]:
    """The product of the axes without what is excluded."""
    values_by_axis = {**_axis_values(study), "task": list(zip(study.task, sources, strict=True))}
    labels = axis_labels(study)
    options = {axis: list(zip(labels[axis], values, strict=True)) for axis, values in values_by_axis.items()}
    check_exclude(study, labels)
    combinations = []
    for values in itertools.product(*options.values()):
        cell = {axis: label for axis, (label, _) in zip(options, values, strict=True) if axis in AXES or label}
        if not any(matches(rule, cell) for rule in study.exclude):
            (task, source), model, attack, defense, training, seed = (value for _, value in values)
            combinations.append(Combination(cell, task, source, model, attack, defense, seed, training))
    return combinations


def kept(study: StudySpec, *axes: str) -> list[tuple[Any, ...]]:
    """Values of these axes that at least one cell has which no rule of `exclude` names, in the order of the grid: what
    cannot be together is no fault of a study that never has both."""
    labels, values = axis_labels(study), _axis_values(study)
    named = {axis for rule in study.exclude for axis in rule if axis in labels}
    wide = [*axes, *sorted(named.difference(axes))]
    found: dict[tuple[int, ...], None] = {}
    for indices in itertools.product(*(range(len(labels[axis])) for axis in wide)):
        cell = {axis: labels[axis][index] for axis, index in zip(wide, indices, strict=True)}
        if not any(matches(rule, cell) for rule in study.exclude):
            found[indices[: len(axes)]] = None
    return [tuple(values[axis][index] for axis, index in zip(axes, indices, strict=True)) for indices in found]


def _axis_values(study: StudySpec) -> dict[str, Sequence[Any]]:
    return {
        "task": study.task,
        "model": study.model,
        "attack": study.attack,
        "defense": study.defense,
        TRAINING: study.trainings,
        "seed": study.seed,
    }


def axis_labels(study: StudySpec) -> dict[str, list[str]]:
    """Labels of the values on every axis; the label of a study's only training is empty."""
    return {
        "task": plugin_labels(study.task),
        "model": [model.name for model in study.model],
        "attack": plugin_labels(study.attack),
        "defense": plugin_labels(study.defense),
        TRAINING: training_labels(study.trainings),
        "seed": [str(seed) for seed in study.seed],
    }


def _incompatibility(one: Combination, study: StudySpec) -> Problem | None:
    """The reason why the plug-ins of a combination do not fit, or None."""
    task, attack, defense = (one.cell[axis] for axis in ("task", "attack", "defense"))
    if reason := one.attack.incompatibility(one.task):
        return Problem(
            "E223",
            f"attack {attack} cannot be combined with task {task}: {reason}",
            "attack",
            f"change the option named, or exclude {{task: {task}, attack: {attack}}}",
        )
    reason = one.defense.incompatibility(one.task, one.attack, study.rows)
    if one.task.kind not in one.defense.kinds:
        reason = _WRONG_KIND[one.task.kind]
    if one.task.reads_images and one.defense.blind:
        reason = f"rows have images, and {one.defense.blind}"
    if not reason:
        return None
    return Problem(
        "E260",
        f"defense {defense} cannot be combined with task {task} and attack {attack}: {reason}",
        "defense",
        f"exclude {{task: {task}, attack: {attack}, defense: {defense}}}",
    )


_WITH_ADAPTERS = "set train.method=lora"


def _unfit_training(one: _Planned, graph: Graph) -> Problem | None:
    """The reason why a run cannot train all weights or compiled layers, or None."""
    stages = list(graph.ancestors(one.evaluation))
    if reason := reason_against(stages):
        return _not_with("method=full", one.combination, reason, _WITH_ADAPTERS)
    if reason := reason_against_compiling(stages):
        return _not_with("compile", one.combination, reason, "remove train.compile")
    return None


def _not_with(setting: str, one: Combination, reason: str, fix: str) -> Problem:
    defense = one.cell["defense"]
    what = f"defense {defense} cannot be combined with train.{setting}: {reason}"
    return Problem("E260", what, f"train.{setting.partition('=')[0]}", f"exclude {{defense: {defense}}}, or {fix}")


def _plan(one: Combination, settings: Settings, graph: Graph) -> _Planned:
    """Add the stages of a combination to the graph."""
    builder = Builder(graph, settings)
    builder.table = one.attack.table_stage(builder)
    rows = builder.handed_on(one.seed) if one.attack.by_weights else builder.attacked(builder.settings.rows_seed)
    try:
        return _Planned(one, builder, rows, one.defense.stages(builder, rows))
    except ValidationError as error:
        if not one.training.is_full:
            raise
        raise UserError(_not_with("method=full", one, "it changes settings of an adapter", _WITH_ADAPTERS)) from error


def _floor(
    one: _Planned, planned: Mapping[tuple[str, ...], _Planned], graph: Graph, known: dict[tuple[str, str], Stage]
) -> Stage | None:
    """The baseline of a run, where the study has the clean, undefended model of the same task, model and seed; `known`
    has those of other runs by adapter and rows."""
    clean = planned.get(tuple({**one.combination.cell, "attack": "none", "defense": "none"}.values()))
    if clean is None or not one.combination.attack.active:
        return None
    adapter = graph.stages[clean.evaluation.reads["adapter"]]
    if (adapter.id, one.rows.id) not in known:
        undefended = Builder(graph, replace(one.builder.settings, further_steps=None))
        known[adapter.id, one.rows.id] = undefended.evaluated(adapter, one.rows, Evaluation(("triggered",)))
    return known[adapter.id, one.rows.id]


def _run(one: _Planned, floor: Stage | None, graph: Graph, needs: Mapping[str, Any]) -> Run:
    ends = [one.evaluation, *([floor] if floor else [])]
    return Run(
        one.combination.cell,
        one.evaluation.reads["adapter"],
        one.evaluation.id,
        floor.id if floor else None,
        tuple(dict.fromkeys(stage.id for end in ends for stage in graph.ancestors(end))),
        needs,
    )
