"""The JSON schema accepts what a study accepts, and the options are those of the models."""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from p2p_dist import registry
from p2p_dist.config import yaml_strict
from p2p_dist.config.model import ModelFile, model_names
from p2p_dist.config.schema import model_schema, options_of, study_schema
from p2p_dist.config.study import TrainSpec
from p2p_dist.planning.cluster import ClusterSpec
from p2p_dist.scheduling.study import configs_dir

SCHEMA = study_schema(model_names(configs_dir() / "models"))
VALID = {"name": "x", "task": "sst2", "model": "tiny"}


def errors(study: dict[str, Any]) -> list[str]:
    return [error.message for error in Draft7Validator(SCHEMA).iter_errors(study)]


def test_study_schema_is_a_schema() -> None:
    Draft7Validator.check_schema(SCHEMA)
    assert json.loads(json.dumps(SCHEMA, allow_nan=False)) == SCHEMA


@pytest.mark.parametrize("path", sorted((configs_dir() / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_study_fits_the_schema(path: Path) -> None:
    assert errors(yaml_strict.read(path).data) == []


@pytest.mark.parametrize(("kind", "model"), [("models", ModelFile), ("clusters", ClusterSpec)])
def test_shipped_files_fit_their_schema(kind: str, model: Any) -> None:
    validator = Draft7Validator(model_schema(model))
    for path in (configs_dir() / kind).glob("*.yaml"):
        assert [error.message for error in validator.iter_errors(yaml_strict.read(path).data)] == [], path


@pytest.mark.parametrize(
    "change",
    [
        {"attack": "badnet"},
        {"attack": {"name": "badnets", "rat": 0.1}},
        {"attack": {"name": "badnets", "rate": 5}},
        {"attack": [{"name": "badnets", "word": 3}]},
        {"attack": {"rate": 0.1}},
        {"defense": {"name": "p2p", "preset": "papr"}},
        {"defense": {"name": "p2p", "screening": {"draws": 0}}},
        {"task": 3},
        {"task": []},
        {"seed": [0, -1]},
        {"seed": "0"},
        {"exclude": [{"atack": "none"}]},
        {"train": {"lr": 0.1}},
        {"train": {"lora": {"r": 0}}},
        {"train": {"learning_rate": "fast"}},
        {"trian": {}},
        {"name": "../x"},
        {"suites": ["cue_gird"]},
    ],
)
def test_mistake_does_not_fit_the_schema(change: dict[str, Any]) -> None:
    assert errors(VALID) == []
    assert errors({**VALID, **change}) != []


@pytest.mark.parametrize("kind", ["tasks", "attacks", "defenses"])
def test_every_plugin_has_its_options_in_the_schema(kind: str) -> None:
    for name in registry.names(kind):
        properties = SCHEMA["$defs"][f"{kind}.{name}"]["properties"]
        plugin = registry.load(kind, name)
        assert set(properties) - {"name", "preset"} == set(plugin.model_fields)
        assert ("preset" in properties) == bool(plugin.presets)


def test_options_have_types_defaults_and_docs() -> None:
    options = {option.name: option for option in options_of(TrainSpec)}
    assert (options["learning_rate"].type, options["learning_rate"].default) == ("number > 0", "0.0002")
    assert options["lora.r"].type == "whole number >= 1, <= 1024"
    assert options["lora.r"].doc == "Rank."
    assert options["dtype"].type == "auto | float32 | bfloat16"
    assert options["quantization"].default == "null"
    assert set(TrainSpec.model_fields) == {name.partition(".")[0] for name in options}


def test_options_of_the_screening_are_dotted() -> None:
    names = [option.name for option in options_of(registry.load("defenses", "p2p"))]
    assert names.index("screening") < names.index("screening.rounds") < names.index("benign_selection")
