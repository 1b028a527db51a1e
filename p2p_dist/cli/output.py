"""Answers of verbs on standard output: valid JSON, and errors in JSON or in text."""

import json
import math
import sys
from collections.abc import Mapping
from typing import Any

from p2p_dist.errors import Exit, Problem, UserError

_INDENTED_UP_TO = 1_000_000
"""Characters. Python indents in its own code, which takes ten times as long as plain JSON: plans of thousands of runs
come on one line."""
_PLAIN_TYPES = frozenset({str, int, bool, type(None)})


def print_json(answer: object) -> None:
    """Print valid JSON: a number that is not finite becomes null, and a value of another library its text."""
    try:
        text = json.dumps(answer, allow_nan=False)
    except (TypeError, ValueError):
        answer = _finite(answer)
        text = json.dumps(answer, allow_nan=False, default=str)
    print(text if len(text) > _INDENTED_UP_TO else json.dumps(answer, indent=1, allow_nan=False, default=str))


def _finite(value: Any) -> Any:
    if type(value) in _PLAIN_TYPES:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def print_error(error: UserError, as_json: bool) -> None:
    """Print an error: as text on standard error, or as JSON on standard output."""
    if as_json:
        print_json(error_json(error.problems, error.exit_code))
    else:
        print(error, file=sys.stderr)


def error_json(problems: tuple[Problem, ...], exit_code: Exit) -> dict[str, object]:
    """The first problem's `code`, `message`, `where` and `fix`, the exit code, and `problems` with all of them."""
    described = [{"code": p.code, "message": p.what, "where": p.where, "fix": p.fix} for p in problems]
    return {**described[0], "exit_code": int(exit_code), "problems": described}
