"""Plain help texts in groups: verbs and options under the headings that they were declared with (`rich_help_panel`)."""

import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from typer import BadParameter
from typer.core import TyperCommand, TyperGroup

from p2p_dist.cli.output import print_error
from p2p_dist.errors import user_error

_BAD_CALL: type[Exception] = BadParameter.__mro__[1]
"""The library's error for a wrong command line."""
_TYPE = re.compile(r" <(?:list\[)?(.+?)(?: range)?\]?>$")


class Formatter(Protocol):
    """The part of the library's help formatter that is used here."""

    width: int

    def section(self, name: str) -> AbstractContextManager[None]: ...
    def write_dl(self, rows: Sequence[tuple[str, str]]) -> None: ...


class Verb(TyperCommand):
    """A verb whose options are printed in groups."""

    def format_options(self, ctx: Any, formatter: Formatter) -> None:
        _write_parameters(self.get_params(ctx), ctx, formatter)


class Verbs(TyperGroup):
    """A list of verbs that are printed in groups. With `--json`, a wrong command line is answered in JSON too."""

    def main(self, args: Sequence[str] | None = None, *others: Any, **named: Any) -> Any:
        words = sys.argv[1:] if args is None else list(args)
        if "--json" not in words or not named.get("standalone_mode", True):
            return super().main(args, *others, **named)
        try:
            code = super().main(words, *others, **{**named, "standalone_mode": False})
        except _BAD_CALL as error:
            message = error.format_message()  # type: ignore[attr-defined]
            problem = user_error("E121", message, "the command line", "read the verb's --help")
            print_error(problem, as_json=True)
            code = problem.exit_code
        sys.exit(code)

    def format_options(self, ctx: Any, formatter: Formatter) -> None:
        _write_parameters(self.get_params(ctx), ctx, formatter)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Formatter) -> None:
        verbs = [(name, verb) for name in self.list_commands(ctx) if (verb := self.get_command(ctx, name))]
        longest = max(len(name) for name, _ in verbs)
        for panel in [*_panels(verb for _, verb in verbs), ""]:
            rows = [
                (name.ljust(longest), verb.get_short_help_str(formatter.width - 4 - longest))
                for name, verb in verbs
                if _panel(verb) == panel and not verb.hidden
            ]
            if rows:
                with formatter.section(panel or "Commands"):
                    formatter.write_dl(rows)


def _write_parameters(parameters: Sequence[Any], ctx: Any, formatter: Formatter) -> None:
    """Print arguments, then every group of options, those without a group last."""
    arguments = [parameter for parameter in parameters if parameter.param_type_name == "argument"]
    options = [parameter for parameter in parameters if parameter.param_type_name != "argument"]
    groups = [("Arguments", arguments)]
    groups += [(panel, [option for option in options if _panel(option) == panel]) for panel in _panels(options)]
    groups.append(("Options", [option for option in options if not _panel(option)]))
    for heading, members in groups:
        if rows := [_record(record) for member in members if (record := member.get_help_record(ctx))]:
            with formatter.section(heading):
                formatter.write_dl(rows)


def _record(record: tuple[str, str]) -> tuple[str, str]:
    """A line of help with its type in short: `--nodes INT`, and no type for arguments."""
    name, text = record
    if not name.startswith("-"):
        return _TYPE.sub("", name), text
    return _TYPE.sub(lambda match: " " + (match[1] if "|" in match[1] else match[1].upper()), name), text


def _panels(members: Iterable[Any]) -> list[str]:
    """The headings of all members that have one, in the order of their first use."""
    return list(dict.fromkeys(panel for member in members if (panel := _panel(member))))


def _panel(member: Any) -> str:
    panel = getattr(member, "rich_help_panel", None)
    return panel if isinstance(panel, str) else ""
