"""The training axis of a study: a list in place of a value under `train` makes a run for each of its items.

A study with `train: {learning_rate: [1e-4, 2e-4], lora: {r: [4, 8]}}` has four trainings, with labels such as
`learning_rate=0.0001 lora.r=4` on the axis `training`. A study without such lists has one training and no such axis.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from p2p_dist.config.study import Strict, TrainSpec

TRAINING = "training"
"""Name of the axis, which cells have where a study has several trainings."""
_LISTS = ("lora.target_modules",)
"""Keys whose single value may itself be a list."""

Path = tuple[str, ...]
"""Keys that lead to a value under `train`."""
METHOD: Path = ("method",)
"""Path of the training method. Beside a list of methods, `lora` is for those that train an adapter."""


def variations(train: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The section `train` once per combination of the items of its lists, the last list changing fastest."""
    lists = dict(_lists(train))
    combinations = [dict(zip(lists, items, strict=True)) for items in itertools.product(*lists.values())]
    trainings = [_replaced(train, values) for values in combinations]
    if METHOD not in lists:
        return trainings
    distinct: list[dict[str, Any]] = []
    for training in map(_without_adapter, trainings):
        if training not in distinct:
            distinct.append(training)
    return distinct


def faults(train: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """Paths of the lists that are empty or have an item twice, with what is wrong."""
    for path, items in _lists(train):
        if not items:
            yield path, "got an empty list"
        for index, item in enumerate(items):
            if item in items[:index]:
                yield path, f"the list has {item!r} twice"


def labels(trainings: Sequence[TrainSpec]) -> list[str]:
    """Labels of trainings: the keys in which they differ, with their values."""
    settings = [dict(_leaves(_fields(one))) for one in trainings]
    differing = [path for path in settings[0] if _differs(path, settings)]
    return [
        " ".join(f"{'.'.join(path)}={_shown(one[path])}" for path in differing if _applies(path, one))
        for one in settings
    ]


def beside_model(cell: Mapping[str, str]) -> dict[str, str]:
    """A cell with its training behind its model, `qwen3-8b (lora.r=4)`: one column, and one identity, for both."""
    model = f"{cell['model']} ({cell[TRAINING]})" if TRAINING in cell else cell["model"]
    return {axis: model if axis == "model" else label for axis, label in cell.items() if axis != TRAINING}


def model_of(label: str) -> str:
    """The model of a label that `beside_model` made."""
    return label.partition(" (")[0]


def training_of(label: str) -> str:
    """The training of a label that `beside_model` made; empty where the study has one training."""
    return label.partition(" (")[2].removesuffix(")")


def _differs(path: Path, settings: Sequence[Mapping[Path, Any]]) -> bool:
    """True if a setting is not the same in all trainings that it applies to."""
    values = [one[path] for one in settings if _applies(path, one)]
    return any(value != values[0] for value in values)


def _applies(path: Path, settings: Mapping[Path, Any]) -> bool:
    return path[0] != "lora" or settings[METHOD] != "full"


def _without_adapter(train: dict[str, Any]) -> dict[str, Any]:
    """A training without the adapter's settings where it trains no adapter."""
    return {key: value for key, value in train.items() if key != "lora"} if train["method"] == "full" else train


def _lists(train: Mapping[str, Any]) -> Iterator[tuple[Path, list[Any]]]:
    """Paths and items of the lists that stand in place of one value."""
    for path, value in _leaves(train):
        if isinstance(value, list) and (".".join(path) not in _LISTS or _has_alternatives(value)):
            yield path, value


def _has_alternatives(value: Sequence[Any]) -> bool:
    """True for several values of a key whose single value may be a list of names."""
    return any(isinstance(item, list) or item == "all-linear" for item in value)


def _fields(settings: Strict) -> dict[str, Any]:
    """All settings, those at their defaults included, which identities may leave out."""
    return {name: _fields(value) if isinstance(value, Strict) else value for name, value in settings}


def _leaves(section: Mapping[str, Any], prefix: Path = ()) -> Iterator[tuple[Path, Any]]:
    for key, value in section.items():
        path = (*prefix, str(key))
        yield from _leaves(value, path) if isinstance(value, Mapping) else [(path, value)]


def _replaced(section: Mapping[str, Any], values: Mapping[Path, Any], prefix: Path = ()) -> dict[str, Any]:
    """The section with the values at these paths."""
    return {
        key: _replaced(value, values, (*prefix, str(key)))
        if isinstance(value, Mapping)
        else values.get((*prefix, str(key)), value)
        for key, value in section.items()
    }


def _shown(value: Any) -> str:
    return "+".join(value) if isinstance(value, tuple) else "null" if value is None else str(value)
