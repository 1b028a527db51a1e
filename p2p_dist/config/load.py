"""Reader of study files: a StudySpec with loaded plug-ins, or all errors at once."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from p2p_dist import registry
from p2p_dist.config import training_axis, yaml_strict
from p2p_dist.config.model import ModelOptions, ModelRef, resolve_model, with_distinct_names, with_options
from p2p_dist.config.study import Plugin, StudySpec, TrainSpec
from p2p_dist.config.yaml_strict import Document, KeyPath
from p2p_dist.errors import Problem, UserError, user_error

Model = TypeVar("Model", bound=BaseModel)

_AXES = {"task": "tasks", "attack": "attacks", "defense": "defenses"}
_PLAIN = re.compile(r"[a-z_][a-z0-9_]*$")
_EXAMPLES = {axis: "{name: NAME, OPTION: VALUE}" for axis in (*_AXES, "model")} | {"prompt": "{form: chat}"}
"""Values of overrides for keys that take a name or a mapping."""
_RENAMED = {
    "lr": "learning_rate",
    "epochs": "num_train_epochs",
    "batch_size": "global_batch",
    "per_device_train_batch_size": "global_batch",
    "lora_r": "lora.r",
    "lora_rank": "lora.r",
    "lora_alpha": "lora.alpha",
    "lora_dropout": "lora.dropout",
    "torch_dtype": "dtype",
    "poison_rate": "rate",
    "cutoff_len": "max_length",
    "model_name_or_path": "model",
    "datasets": "task",
}


def load_study(path: Path, overrides: Sequence[str], models: Path) -> StudySpec:
    """Read, override and check a study; `models` is the folder of model files. Raises UserError with all problems."""
    return check_study(read_study(path, overrides), models)


def read_study(path: Path, overrides: Sequence[str]) -> Document:
    """A study file with overrides applied. Raises UserError with all problems of its YAML."""
    return override(yaml_strict.read(path), overrides)


def check_study(document: Document, models: Path) -> StudySpec:
    """The study of a document, with its plug-ins and models. Raises UserError with all problems."""
    problems: list[Problem] = []
    trainings = _trainings(document, problems)
    study = _validate(StudySpec, {**document.data, **_one_training(document)}, document, (), problems)
    plugins = {axis: _plugins(axis, kind, document, problems) for axis, kind in _AXES.items() if axis in document.data}
    models_ = tuple(_model(value, place, models, document, problems) for place, value in _items(document, "model"))
    for place, seed in _items(document, "seed"):
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            problems.append(
                _problem(
                    document, place, "E107", f"got {seed!r}, expected a whole number >= 0", "write a number such as 0"
                )
            )
    if problems:
        raise UserError(*problems)
    assert study is not None
    defaults = {
        axis: (registry.load(kind, "none")(),)
        for axis, kind in _AXES.items()
        if axis not in document.data and axis != "task"
    }
    models_ = with_distinct_names([model for model in models_ if model is not None])
    study = study.model_copy(update={**defaults, **plugins, "model": models_})
    return study.with_trainings(trainings)


def _trainings(document: Document, problems: list[Problem]) -> tuple[TrainSpec, ...]:
    """The trainings of a study; problems are added."""
    train = document.data.get("train", {})
    if not isinstance(train, Mapping):
        return ()  # a problem of the study itself
    problems += [
        _problem(document, ("train", *path), "E107", what, "list different values, or write one value")
        for path, what in training_axis.faults(train)
    ]
    invalid: list[Problem] = []
    trainings = [_validate(TrainSpec, one, document, ("train",), invalid) for one in training_axis.variations(train)]
    problems += dict.fromkeys(invalid)
    return tuple(training for training in trainings if training is not None)


def _one_training(document: Document) -> dict[str, Any]:
    """The section `train` for the study's other checks: none where it was checked by itself."""
    return {"train": {}} if isinstance(document.data.get("train"), Mapping) else {}


def override(document: Document, overrides: Sequence[str]) -> Document:
    """The document with `key.path=value` applied; values follow the rules of the file. Its text says the same."""
    if not overrides:
        return document
    data = json.loads(json.dumps(document.data, allow_nan=True))
    lines = dict(document.lines)
    for text in overrides:
        dotted, equals, value = text.partition("=")
        if not equals or not dotted:
            raise user_error(
                "E118",
                f"override {text!r} is not key=value",
                "the command line",
                "write KEY=VALUE, such as train.learning_rate=1e-4",
            )
        keys = dotted.split(".")
        place: Any = data
        for depth, key in enumerate(keys[:-1]):
            if not isinstance(place.setdefault(key, {}), dict):
                raise user_error(
                    "E118",
                    f"{'.'.join(keys[: depth + 1])} is not a mapping",
                    f"the command line ({dotted})",
                    f"set the whole key, such as {keys[0]}={_EXAMPLES.get(keys[0], '{KEY: VALUE}')}",
                )
            place = place[key]
        place[keys[-1]] = yaml_strict.scalar(value)
        for replaced in [path for path in lines if path[: len(keys)] == tuple(keys)]:
            del lines[replaced]
        lines[tuple(keys)] = 0
    return Document(document.name, data, lines, _written(document.name, overrides, data))


def _written(name: str, overrides: Sequence[str], data: Mapping[str, Any]) -> bytes:
    """YAML of a study with its overrides: a line per key, or per item of a list; strings in quotes."""
    lines = [f"# {name} with {' '.join(map(json.dumps, overrides))}"]
    for key, value in data.items():
        if isinstance(value, list) and value:
            lines += [f"{_flow(key)}:", *(f"  - {_flow(item)}" for item in value)]
        else:
            lines.append(f"{_flow(key)}: {_flow(value)}")
    return ("\n".join(lines) + "\n").encode(errors="surrogateescape")


def _flow(value: object) -> str:
    """A value as YAML 1.2 and JSON both write it; numbers that are not finite as YAML does."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_flow(key)}: {_flow(item)}' for key, item in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_flow, value))}]"
    if (
        isinstance(value, str)
        and _PLAIN.match(value)
        and value not in ("null", "true", "false", "yes", "no", "on", "off", "y", "n")
    ):
        return value
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    return json.dumps(value)


def _items(document: Document, axis: str) -> list[tuple[KeyPath, Any]]:
    """The values on an axis, one or a list, with their places in the file."""
    value = document.data.get(axis, [])
    return (
        [((axis, index), item) for index, item in enumerate(value)] if isinstance(value, list) else [((axis,), value)]
    )


def _model(value: Any, place: KeyPath, folder: Path, document: Document, problems: list[Problem]) -> ModelRef | None:
    options = _validate(ModelOptions, value, document, place, problems) if isinstance(value, dict) else None
    if isinstance(value, dict) and options is None:
        return None
    try:
        model = resolve_model(options.name if options else value, folder)
        return with_options(model, options) if options else model
    except UserError as error:
        problems += [
            Problem(problem.code, problem.what, document.where(place), problem.fix) for problem in error.problems
        ]
        return None


def _plugins(axis: str, kind: str, document: Document, problems: list[Problem]) -> tuple[Plugin, ...]:
    loaded = []
    for path, value in _items(document, axis):
        options = {"name": value} if isinstance(value, str) else value
        if not isinstance(options, dict) or not isinstance(options.get("name"), str):
            problems.append(
                _problem(
                    document,
                    path,
                    "E103",
                    f"got {value!r}, expected a name or {{name: ..., options}}",
                    f"name one of `p2p-dist list {kind}`",
                )
            )
            continue
        try:
            plugin = registry.load(kind, options["name"])
        except UserError as error:
            problem = error.problems[0]
            problems.append(Problem(problem.code, problem.what, document.where((*path, "name")), problem.fix))
            continue
        given = {key: val for key, val in options.items() if key not in ("name", "preset")}
        preset = options.get("preset")
        if preset is not None and (not isinstance(preset, str) or preset not in plugin.presets):
            problems.append(
                _problem(
                    document,
                    (*path, "preset"),
                    "E117",
                    f"unknown preset {preset!r} of {options['name']}",
                    f"use one of {', '.join(plugin.presets)}"
                    if plugin.presets
                    else "remove it; the plug-in has no presets",
                )
            )
            continue
        configured = _validate(plugin, _beside_preset(plugin.presets.get(preset, {}), given), document, path, problems)
        if configured is not None:
            loaded.append(configured)
    return tuple(loaded)


def _beside_preset(preset: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a preset and those that stand beside it, which win; of options that are mappings in both, key by
    key."""
    both = {key for key in given if isinstance(given[key], Mapping) and isinstance(preset.get(key), Mapping)}
    return {**preset, **given, **{key: {**preset[key], **given[key]} for key in both}}


def _validate(
    model: type[Model], data: object, document: Document, place: KeyPath, problems: list[Problem]
) -> Model | None:
    """The validated model, or None with its problems added."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        for detail in error.errors():
            problems.append(_explain(model, dict(detail), document, place))
        return None


def _explain(model: type[BaseModel], detail: dict[str, Any], document: Document, place: KeyPath) -> Problem:
    """One pydantic error as a problem of the file."""
    path: KeyPath = (*place, *[part for part in detail["loc"] if _in_file(part)])
    got = repr(detail.get("input"))[:80]
    if detail["type"] == "extra_forbidden":
        key = str(path[-1])
        known = _fields_at(model, path[len(place) : -1])
        if key in _RENAMED:
            return _problem(document, path, "E103", f"unknown key {key!r}", f"write {_RENAMED[key]!r}")
        message = f"unknown key {key!r}{registry.suggest(key, known)}"
        return _problem(document, path, "E103", message, f"use one of {', '.join(known)}" if known else "remove it")
    if detail["type"] == "missing":
        return _problem(document, path, "E103", f"key {path[-1]!r} is missing", "add it to the file")
    fix = f"read in `p2p-dist list {_listed(model, path)}` what it may be"
    if path[-1] in ("rate", "ratio") and isinstance(detail.get("input"), int | float) and 1 < detail["input"] <= 100:
        return _problem(
            document,
            path,
            "E108",
            f"got {got}, expected a share between 0 and 1",
            f"write {detail['input'] / 100}",
        )
    if isinstance(detail.get("input"), str) and detail["type"] in ("float_type", "int_type"):
        fix = "write the plain number, without quotes or spaces"
    code = "E112" if path[-1] == "name" else "E107"
    return _problem(document, path, code, f"got {got}, expected: {detail['msg'].removeprefix('Input should be ')}", fix)


def _listed(model: type[BaseModel], path: KeyPath) -> str:
    """Words behind `p2p-dist list` that show the keys of a part of a study and what each may be."""
    if issubclass(model, Plugin):
        return f"{model.plugin_kind} {model.__module__.rpartition('.')[2]}"
    return "models" if model is ModelOptions else str(path[0]) if path[0] in ("train", "rows") else "study"


def _in_file(part: int | str) -> bool:
    """True for keys and positions of the file, false for the steps that pydantic adds for members of a union."""
    return isinstance(part, int) or not part.startswith(("literal[", "function-", "tuple[", "constrained-"))


def _fields_at(model: type[BaseModel], path: KeyPath) -> list[str]:
    current: Any = model
    for part in path:
        field = (
            current.model_fields.get(str(part))
            if isinstance(current, type) and issubclass(current, BaseModel)
            else None
        )
        current = field.annotation if field else None
    return sorted(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else []


def _problem(document: Document, path: KeyPath, code: str, what: str, fix: str = "") -> Problem:
    return Problem(code, what, document.where(path), fix)
