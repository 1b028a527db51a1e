"""Chat template of a model: its Jinja source with every setting fixed, rendered as transformers renders it, without
torch.

Equal messages must give equal prompts in training, evaluation and every server. So thinking is off, there are no tools
and no documents, and the date of templates that print one is `DATE`; all of that is written into the source.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import Template, nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from p2p_dist.errors import user_error
from p2p_dist.model_files.folder import read_json

DATE = "2024-07-26"
"""Date in every prompt, which Llama's own templates have where they are told none."""
CODE = "E299"
OTHER_FORM = "set prompt: plain, or choose an instruction-tuned model"
_OFF = {"enable_thinking": "false", "thinking": "false", "tools": "none", "documents": "none"}
"""Variables of templates and their fixed values, set where a template has the name."""
_NOW = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
Message = Mapping[str, str]


@dataclass(frozen=True)
class ChatTemplate:
    """A template with its settings fixed, and the special tokens that it may write."""

    source: str
    special_tokens: Mapping[str, str]

    @classmethod
    def of(cls, source: object, special_tokens: Mapping[str, str]) -> "ChatTemplate | None":
        """The template as a tokenizer or its config has it: a text, or several by name; None where there is none.

        Raises UserError E299 for a source that shows the time of day or is no Jinja.
        """
        if isinstance(source, list):
            source = {one.get("name"): one.get("template") for one in source if isinstance(one, dict)}
        if isinstance(source, dict):
            source = source.get("default")
        return cls(fixed(source), dict(special_tokens)) if isinstance(source, str) and source else None

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        """The prompt of messages. Raises UserError E299 with the template's own words where it refuses them."""
        settings = {"tools": None, "documents": None, **self.special_tokens}
        try:
            return self._template.render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=add_generation_prompt,
                **settings,
            )
        except (TemplateError, TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
            roles = ", ".join(message["role"] for message in messages)
            what = f"the model's chat template refuses turns of {roles}: {error}"
            raise user_error(CODE, what, "prompt", f"change the rows or the study's prompt, or {OTHER_FORM}") from error

    @property
    def digest(self) -> str:
        """Twelve hex digits of SHA-256 over the source."""
        return hashlib.sha256(self.source.encode()).hexdigest()[:12]

    @cached_property
    def _template(self) -> Template:
        try:
            return _environment().from_string(self.source)
        except TemplateError as error:
            raise user_error(CODE, f"the model's chat template is no Jinja: {error}", "model", OTHER_FORM) from error


def read_template(folder: Path) -> ChatTemplate | None:
    """The template of a model folder; None where it has none. Raises UserError E271 and E299."""
    settings_file, legacy, own = (
        folder / name for name in ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
    )
    settings = read_json(settings_file) if settings_file.is_file() else {}
    names = {**(read_json(legacy) if legacy.is_file() else {}), **settings}
    special_tokens = {name: text for name in _SPECIAL if (text := _text(names.get(name))) is not None}
    source = own.read_text(encoding="utf-8") if own.is_file() else settings.get("chat_template")
    return ChatTemplate.of(source, special_tokens)


def fixed(source: str) -> str:
    """The source with its settings fixed. Raises UserError E299 for one that shows the time in another way."""
    day = datetime.fromisoformat(DATE)
    dated = _NOW.sub(lambda match: json.dumps(day.strftime(match[2])), source)
    if "strftime_now(" in dated:
        what = "the model's chat template prints the current time, so that no two prompts are equal"
        raise user_error(CODE, what, "model", OTHER_FORM)
    settings = "".join(
        f"{{%- set {name} = {value} %}}\n" for name, value in _OFF.items() if re.search(rf"\b{name}\b", source)
    )
    return settings + dated


class _Generation(Extension):
    """The tag with which templates mark answers for training; its content is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it as a set)

    def parse(self, parser: Parser) -> nodes.Node:
        """The content of the tag in a scope of its own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


def _environment() -> ImmutableSandboxedEnvironment:
    """The environment in which transformers renders templates."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = datetime.fromisoformat(DATE).strftime
    return environment


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _text(token: Any) -> str | None:
    content = token.get("content") if isinstance(token, Mapping) else token
    return content if isinstance(content, str) else None
