"""From a study to its runs and to the graph of stages that they share. Pure: what was found on disk is handed in."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from p2p_dist import registry
from p2p_dist.config.builder import Builder, Evaluation, Settings
from p2p_dist.config.graph import Graph, Stage
from p2p_dist.config.model import ModelRef
from p2p_dist.config.study import Plugin, RowsSpec, StudySpec
from p2p_dist.errors import Problem, UserError, user_error

AXES = ("task", "model", "attack", "defense", "seed")


_WRONG_KIND = {
    "generation": "it needs labels, and the task is answered with text",
    "classification": "it looks over an answer token by token, and the task is answered with a label",
}


class Found(Protocol):
    """Where the rows of a task were found (see `p2p_dist.data.sources.Source`)."""

    @property
    def kind(self) -> str: ...
    @property
    def place(self) -> str: ...
    @property
    def digest(self) -> str: ...


@dataclass(frozen=True)
class Run:
    """One cell of the grid: its label on every axis and the stages that answer for it."""

    cell: Mapping[str, str]
    train: str
    evaluation: str
    floor: str | None
    """The clean model on this run's triggered rows, if the study trains one."""
    stages: tuple[str, ...]
    needs: Mapping[str, Any] = field(default_factory=dict)
    """What its defense takes for granted: clean rows, further models, prompts, and where it is described."""

    def to_json(self) -> dict[str, Any]:
        ends = {"train": self.train, "eval": self.evaluation, "floor": self.floor}
        return {"cell": dict(self.cell), **ends, "stages": list(self.stages), "needs": dict(self.needs)}


@dataclass(frozen=True)
class Expansion:
    """All runs of a study and the graph of their stages."""

    runs: Sequence[Run]
    graph: Graph


def expand(
    study: StudySpec, sources: Sequence[Found], files: Mapping[str, str], models: Mapping[str, ModelRef] | None = None
) -> Expansion:
    """Every combination that `exclude` does not name. `sources` belong to the study's tasks; `files` has the content
    hash of every path that an option names, `models` every model.

    Raises UserError E103 for an exclude that names no axis or nothing on it, E120 when nothing is left, E260 for every
    combination that a defense refuses, E223 for one that an attack refuses.
    """
    options: dict[str, list[tuple[str, Any]]] = {
        "task": list(zip(_labels(study.task), zip(study.task, sources, strict=True), strict=True)),
        "model": [(model.name, model) for model in study.model],
        "attack": list(zip(_labels(study.attack), study.attack, strict=True)),
        "defense": list(zip(_labels(study.defense), study.defense, strict=True)),
        "seed": [(str(seed), seed) for seed in study.seed],
    }
    _check_exclude(study, {axis: [label for label, _ in values] for axis, values in options.items()})
    graph, cells, refused = Graph(), {}, []
    for combination in itertools.product(*(options[axis] for axis in AXES)):
        cell = {axis: label for axis, (label, _) in zip(AXES, combination, strict=True)}
        if any(_matches(rule, cell) for rule in study.exclude):
            continue
        values = dict(zip(AXES, (value for _, value in combination), strict=True))
        if problem := _incompatibility(values, cell, study.rows):
            refused.append(problem)
        else:
            cells[tuple(cell.values())] = _stages(study, files, models or {}, values, graph)
    if refused:
        raise UserError(*dict.fromkeys(refused))
    if not cells:
        raise user_error("E120", "every combination is excluded", "exclude", "remove a rule")
    return Expansion(
        [_run(dict(zip(AXES, key, strict=True)), made, cells, graph) for key, made in cells.items()], graph
    )


@dataclass(frozen=True)
class _Made:
    builder: Builder
    attacked: bool
    rows: Stage
    evaluation: Stage
    needs: Any


def _incompatibility(values: Mapping[str, Any], cell: Mapping[str, str], rows: RowsSpec) -> Problem | None:
    """Why the plug-ins of a run do not go together, if they do not."""
    task, attack, defense = values["task"][0], values["attack"], values["defense"]
    if why := attack.incompatibility(task):
        return Problem(
            "E223",
            f"{cell['attack']} on task {cell['task']}: {why}",
            "attack",
            f"the option named, or exclude {{task: {cell['task']}, attack: {cell['attack']}}}",
        )
    why = defense.incompatibility(task, attack, rows)
    if task.kind not in defense.kinds:
        why = _WRONG_KIND[task.kind]
    if not why:
        return None
    pair = f"{cell['defense']} on task {cell['task']}, attack {cell['attack']}"
    fix = f"exclude {{task: {cell['task']}, attack: {cell['attack']}, defense: {cell['defense']}}}"
    return Problem("E260", f"{pair} makes no sense: {why}", "defense", fix)


def _stages(
    study: StudySpec, files: Mapping[str, str], models: Mapping[str, ModelRef], values: Mapping[str, Any], graph: Graph
) -> _Made:
    task, source = values["task"]
    attack, defense, model = values["attack"], values["defense"], values["model"]
    settings = Settings(
        data={
            "task": {
                "name": registry.name_of(task),
                **task.model_dump(exclude=set(task.place_fields)),
                **registry.code_of(task),
            },
            "rows": study.rows.model_dump(),
            "source": source.digest,
        },
        attack=attack,
        attack_spec={key: value for key, value in _spec(attack, files).items() if key != "via"},
        defense_spec=_spec(defense, files),
        model=model.identity,
        train=study.train.model_dump(),
        seed=values["seed"],
        local={
            "source": {"kind": source.kind, "place": source.place},
            "model": dict(model.local),
            "attack": _paths(attack),
            "defense": _paths(defense),
        },
        extra_models={
            option: (models[name].identity, models[name].local)
            for option in defense.model_options
            if (name := getattr(defense, option))
        },
        suites=study.suites,
    )
    builder = Builder(graph, settings)
    rows = (
        builder.handed_on(values["seed"])
        if attack.by_weights
        else builder.attacked(values["seed"] if attack.active else None)
    )
    return _Made(builder, attack.active, rows, defense.stages(builder, rows), defense.assumptions())


def _run(cell: dict[str, str], made: _Made, cells: Mapping[tuple[str, ...], _Made], graph: Graph) -> Run:
    """Add the floor: the clean, undefended model of the same task, model and seed on this run's triggered rows."""
    floor = None
    clean = cells.get(tuple({**cell, "attack": "none", "defense": "none"}.values()))
    if clean is not None and made.attacked:
        adapter = graph.stages[clean.evaluation.reads["adapter"]]
        floor = made.builder.evaluated(adapter, made.rows, Evaluation(("triggered",)))
    wanted = [made.evaluation, *([floor] if floor else [])]
    stages = dict.fromkeys(stage.id for end in wanted for stage in graph.ancestors(end))
    return Run(
        cell,
        made.evaluation.reads["adapter"],
        made.evaluation.id,
        floor.id if floor else None,
        tuple(stages),
        asdict(made.needs),
    )


def _spec(plugin: Plugin, files: Mapping[str, str]) -> dict[str, Any]:
    """A plug-in's name and options; files stand in with their content hash."""
    hashes = {field: files[path] for field, path in _paths(plugin).items()}
    return {"name": registry.name_of(plugin), **plugin.model_dump(), **hashes, **registry.code_of(plugin)}


def _paths(plugin: Plugin) -> dict[str, str]:
    return {field: getattr(plugin, field) for field in plugin.file_fields}


def _labels(plugins: Sequence[Plugin]) -> list[str]:
    """The plug-ins' names; where one stands twice, with the options in which it differs from the defaults."""
    names = Counter(registry.name_of(plugin) for plugin in plugins)
    return [
        registry.name_of(plugin) if names[registry.name_of(plugin)] == 1 else _long_label(plugin) for plugin in plugins
    ]


def _long_label(plugin: Plugin) -> str:
    inside = ", ".join(f"{key}={value}" for key, value in _flat(plugin.model_dump(exclude_defaults=True)))
    return f"{registry.name_of(plugin)}({inside})" if inside else registry.name_of(plugin)


def _flat(options: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Options as they would be overridden: `screening.rounds` for one inside another."""
    for key, value in options.items():
        yield from _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]


def _matches(rule: Mapping[str, Any], cell: Mapping[str, str]) -> bool:
    return all(cell[axis] == str(label) or cell[axis].partition("(")[0] == str(label) for axis, label in rule.items())


def _check_exclude(study: StudySpec, labels: Mapping[str, Sequence[str]]) -> None:
    """Refuse a rule about no axis. A rule about a value that an override took out simply excludes nothing."""
    for axis in (axis for rule in study.exclude for axis in rule):
        if axis not in labels:
            raise user_error(
                "E103",
                f"exclude names {axis!r}{registry.suggest(axis, AXES)}",
                "exclude",
                f"use one of {', '.join(AXES)}",
            )
