"""The keys of a study for people and for editors: options with type, default and documentation, and a JSON schema.

Both are read off the pydantic models, so they cannot differ from what a study accepts.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import BaseModel

from p2p_dist import registry
from p2p_dist.config.model import ModelOptions
from p2p_dist.config.study import StudySpec
from p2p_dist.config.training_axis import TRAINING

Schema = dict[str, Any]

PLUGIN_AXES = {"task": "tasks", "attack": "attacks", "defense": "defenses"}
_BOUNDS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
_TYPES = {"string": "text", "integer": "whole number", "boolean": "true or false", "null": "null", "object": "mapping"}


@dataclass(frozen=True)
class Option:
    """One key of a study or of a plug-in."""

    name: str
    """Dotted, as it would be overridden: `screening.rounds`."""
    type: str
    default: str
    """As YAML has it; empty where a value is required."""
    doc: str

    def to_json(self) -> dict[str, str]:
        return asdict(self)


def options_of(model: type[BaseModel]) -> list[Option]:
    """The options of a model in the order of its fields, nested ones behind the option that holds them."""
    schema = model_schema(model)
    return list(_options(schema, schema.get("$defs", {}), ""))


def model_schema(model: type[BaseModel]) -> Schema:
    """The JSON schema of a model without the titles that only repeat its names."""
    schema: Schema = _tidy(model.model_json_schema())
    return schema


def study_schema(models: Sequence[str]) -> Schema:
    """The JSON schema of a study file, for the plug-ins that are found now and these names of models."""
    schema = model_schema(StudySpec)
    for axis, kind in PLUGIN_AXES.items():
        schema["properties"][axis] = _axis(schema, axis, _plugin_schema(kind, schema["$defs"]))
    model = {"anyOf": [{"enum": list(models)}, {"type": "string"}, model_schema(ModelOptions)]}
    schema["properties"]["model"] = _axis(schema, "model", model)
    schema["properties"]["seed"] = _axis(schema, "seed", {"type": "integer", "minimum": 0})
    for section in ("TrainSpec", "LoraSpec"):
        _take_lists(schema["$defs"][section]["properties"])
    label = {"type": ["string", "integer"]}
    rule = {"type": "object", "properties": dict.fromkeys([*PLUGIN_AXES, "model", TRAINING, "seed"], label)}
    schema["properties"]["exclude"]["items"] = {**rule, "additionalProperties": False}
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "A study of p2p-dist", **schema}


def _take_lists(properties: Schema) -> None:
    """Let every value of a section be a list of values too; sections in it stay as they are."""
    for name, node in properties.items():
        if "$ref" not in node and not any("$ref" in part for part in node.get("allOf", ())):
            value = {key: part for key, part in node.items() if key not in ("description", "default")}
            rest = {key: part for key, part in node.items() if key in ("description", "default")}
            properties[name] = {"anyOf": [value, {"type": "array", "items": value, "minItems": 1}], **rest}


def _axis(schema: Schema, axis: str, item: Schema) -> Schema:
    """One value or a list of them, documented as the axis is."""
    description = schema["properties"][axis].get("description")
    values = [item, {"type": "array", "items": item, "minItems": 1}]
    return {"anyOf": values, **({"description": description} if description else {})}


def _plugin_schema(kind: str, definitions: Schema) -> Schema:
    """A plug-in's name, or a mapping whose keys depend on it. Adds the options of every plug-in to `definitions`."""
    names = registry.names(kind)
    choices = []
    for name in names:
        plugin = registry.load(kind, name)
        options = model_schema(plugin)
        definitions.update(options.pop("$defs", {}))
        options["properties"] = {"name": {"const": name}, **options.get("properties", {})}
        if plugin.presets:
            options["properties"]["preset"] = {"enum": list(plugin.presets), "description": "A named set of options."}
            options.pop("required", None)
        definitions[f"{kind}.{name}"] = options
        condition = {"properties": {"name": {"const": name}}, "required": ["name"]}
        choices.append({"if": condition, "then": {"$ref": f"#/$defs/{kind}.{name}"}})
    mapping = {"type": "object", "required": ["name"], "properties": {"name": {"enum": names}}, "allOf": choices}
    return {"anyOf": [{"enum": names}, mapping]}


def _tidy(node: Any) -> Any:
    """A schema without titles; the least length of a list has the name that JSON schema has for it."""
    if isinstance(node, list):
        return [_tidy(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("type") == "array" and "minLength" in node:
        node = {**{key: value for key, value in node.items() if key != "minLength"}, "minItems": node["minLength"]}
    return {
        key: {name: _tidy(inner) for name, inner in value.items()} if key in ("properties", "$defs") else _tidy(value)
        for key, value in node.items()
        if not (key == "title" and isinstance(value, str))
    }


def _options(schema: Mapping[str, Any], definitions: Mapping[str, Any], prefix: str) -> Iterator[Option]:
    for name, node in schema.get("properties", {}).items():
        required = name in schema.get("required", ())
        default = "" if required or "default" not in node else json.dumps(node["default"], ensure_ascii=False)
        nested = [part["$ref"].rpartition("/")[2] for part in (node, *node.get("anyOf", ())) if "$ref" in part]
        doc = " ".join(node.get("description", "").split())
        if not nested:
            yield Option(prefix + name, _type_of(node), default, doc)
            continue
        inner = definitions[nested[0]]
        doc = doc or " ".join(inner.get("description", "").split())
        yield Option(prefix + name, _type_of(node), "null" if default == "null" else "as below", doc)
        yield from _options(inner, definitions, f"{prefix}{name}.")


def _type_of(node: Mapping[str, Any]) -> str:
    """A type in a few words: `number > 0, < 1`, `a | b`, `list of text or null`."""
    if "anyOf" in node:
        return " or ".join(_type_of(part) for part in node["anyOf"])
    if "$ref" in node:
        return "mapping"
    if "enum" in node:
        return " | ".join(map(str, node["enum"]))
    if "const" in node:
        return str(node["const"])
    if node.get("type") == "array":
        return f"list of {_type_of(node['items'])}" if node.get("items") else "one value or a list"
    bounds = [f"{sign} {node[key]}" for key, sign in _BOUNDS.items() if key in node]
    type_ = str(node.get("type", "anything"))
    return " ".join([_TYPES.get(type_, type_), ", ".join(bounds)]).strip()
