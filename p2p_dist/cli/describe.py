"""One plug-in, or one part of a study, in full: documentation, presets, assumptions and options, in 80 columns."""

import inspect
import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pydantic import BaseModel

from p2p_dist import registry
from p2p_dist.config.schema import Option, options_of
from p2p_dist.config.study import RowsSpec, StudySpec, TrainSpec

PARTS: Mapping[str, type[BaseModel]] = {"study": StudySpec, "rows": RowsSpec, "train": TrainSpec}
"""The parts of a study whose keys are listed."""
DESCRIBED = ("tasks", "attacks", "defenses")
"""Kinds of plug-ins that `list KIND` tells in a line each."""
_WIDTH = 80


def plugin(kind: str, name: str) -> dict[str, Any]:
    """A plug-in as a mapping. Raises UserError E117 for an unknown one."""
    class_ = registry.load(kind, name)
    module = inspect.getmodule(class_)
    options = [option.to_json() for option in options_of(class_)]
    return {
        "kind": kind,
        "name": name,
        "file": str(getattr(module, "__file__", "")),
        "doc": [inspect.getdoc(module) or "", inspect.getdoc(class_) or ""],
        **_nature(class_),
        "presets": {preset: dict(values) for preset, values in class_.presets.items()},
        "options": options,
    }


def summaries(kind: str, names: Sequence[str]) -> list[str]:
    """Each plug-in with the first sentence of its documentation; a defense also with what it needs."""
    lines = []
    for name in names:
        class_ = registry.load(kind, name)
        text = f"{name}: {_first_sentence(inspect.getdoc(inspect.getmodule(class_)) or '')}"
        if assumptions := getattr(class_, "default_assumptions", None):
            text += f" {_needs(class_, assumptions)}"
        lines += textwrap.wrap(text, _WIDTH, subsequent_indent="    ", break_on_hyphens=False, break_long_words=False)
    return [*lines, "", f"One in full: `p2p-dist list {kind} {names[0]}`."]


def _needs(class_: Any, assumptions: Any) -> str:
    """Needs of a defense and the answers that it is for."""
    needs = [value for value in (assumptions.clean_rows, assumptions.extra_models) if value != "none"]
    if assumptions.clean_rows != "none":
        needs[0] = f"clean rows ({needs[0]})"
    needs += ["control of the prompt"] * assumptions.prompt_control
    needs += ["control of the decoding"] * assumptions.decoding_control
    answers = " and ".join({"classification": "labels", "generation": "text"}[kind] for kind in class_.kinds)
    return f"Needs {', '.join(needs) or 'nothing'}; for {answers}."


def _first_sentence(doc: str) -> str:
    """The first sentence of a docstring, without the reference in brackets at its end."""
    paragraph = " ".join(doc.split("\n\n")[0].split())
    end = next((match.end() for match in re.finditer(r"[.](?= [A-Z]|$)", paragraph)), len(paragraph))
    return paragraph[:end]


def part(name: str) -> dict[str, Any]:
    """A part of a study as a mapping."""
    model = PARTS[name]
    options = [option.to_json() for option in options_of(model)]
    return {"kind": "keys", "name": name, "doc": [inspect.getdoc(model) or ""], "options": options}


def _nature(class_: Any) -> dict[str, Any]:
    """The class attributes of a plug-in that a user needs to know, where it has them."""
    nature: dict[str, Any] = {}
    for attribute in ("kinds", "class_names", "metrics", "licence", "embedded", "file_fields", "model_options"):
        if value := getattr(class_, attribute, None):
            nature[attribute] = list(value) if isinstance(value, tuple) else value
    if hub := getattr(class_, "hub", None):
        nature["hub"] = f"{hub.id}@{hub.revision}"
    if assumptions := getattr(class_, "default_assumptions", None):
        nature["assumptions"] = asdict(assumptions)
    return nature


_HEADINGS = {
    "file": "File",
    "kinds": "Answers",
    "class_names": "Classes",
    "metrics": "Metrics",
    "licence": "Licence",
    "hub": "Hub",
    "embedded": "Embedded",
    "file_fields": "Reads files",
    "model_options": "Reads models",
    "assumptions": "Assumes",
}


def text(described: Mapping[str, Any]) -> str:
    """The text of a described plug-in or part."""
    lines = [f"{described['kind'].removesuffix('s') if described['kind'] != 'keys' else 'keys of'} {described['name']}"]
    for paragraph in "\n\n".join(filter(None, described["doc"])).split("\n\n"):
        lines += ["", _paragraph(paragraph)]
    attributes = [_attribute(heading, described[key]) for key, heading in _HEADINGS.items() if key in described]
    attributes += [_attribute(f"preset {preset}", values) for preset, values in described.get("presets", {}).items()]
    lines += ["", *attributes] if attributes else []
    options = [Option(**option) for option in described["options"]]
    return "\n".join([*lines, "", *(_option_lines(options) if options else ["It has no options."])])


def _paragraph(text: str) -> str:
    """A paragraph in 80 columns; an indented one, such as an example, keeps its lines. The steps of a numbered list
    begin lines of their own."""
    if text.startswith("    "):
        return "\n".join(
            textwrap.fill(line, _WIDTH, subsequent_indent=" " * 8, break_on_hyphens=False)
            for line in text.rstrip().splitlines()
        )
    items = re.split(r"\n(?=\d+\. )", text)
    return "\n".join(
        textwrap.fill(" ".join(item.split()), _WIDTH, break_on_hyphens=False, break_long_words=False) for item in items
    )


def _attribute(heading: str, value: object) -> str:
    if isinstance(value, Mapping):
        value = ", ".join(f"{key}={json.dumps(item, ensure_ascii=False)}" for key, item in value.items())
    elif isinstance(value, Sequence) and not isinstance(value, str):
        value = ", ".join(map(str, value))
    indent = " " * 14
    start = f"{heading + ':':13} " if len(heading) < 13 else f"{heading}: "
    return textwrap.fill(f"{start}{value}", _WIDTH, subsequent_indent=indent, break_on_hyphens=False)


def _option_lines(options: Sequence[Option]) -> list[str]:
    """Every option with its type and default, its documentation below."""
    lines = ["Options:"]
    for option in options:
        default = f", default {option.default}" if option.default else ", required"
        head = f"  {option.name}: {option.type}{default}"
        lines.append(textwrap.fill(head, _WIDTH, subsequent_indent=" " * 6, break_on_hyphens=False))
        if option.doc:
            indent = " " * 6
            lines.append(
                textwrap.fill(
                    option.doc, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
                )
            )
    return lines
