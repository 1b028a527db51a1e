"""Rows of files, each parsed by its task: bad rows are refused together, or dropped and listed."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from p2p_dist.data.cells import LabelType, MissingColumn
from p2p_dist.data.row_files import FILE_SUFFIXES, SUFFIXES, Raw, rows_of
from p2p_dist.errors import Problem, UserError, user_error
from p2p_dist.registry import suggest

__all__ = ["FILE_SUFFIXES", "SUFFIXES", "Raw", "Rules", "check_rows", "read_mappings", "read_rows"]

_SHOWN = 5
_MOST_COLUMNS = 40

Parsed = TypeVar("Parsed")


@dataclass
class Rules:
    """Rules for the rows of all splits of a task, and the record of what was met."""

    drop: bool = False
    """Leave bad rows out, and list them in `dropped`; else they are refused."""
    label_type: Callable[[Mapping[str, Any]], LabelType | None] = lambda row: None
    """Type of a row's label cell; rows of two types are refused."""
    dropped: list[Problem] = field(default_factory=list)
    label_types: dict[LabelType, str] = field(default_factory=dict)
    """Place of the first label of each type."""


def read_rows(path: Path, parse: Callable[[Mapping[str, Any]], Parsed], rules: Rules | None = None) -> list[Parsed]:
    """All rows of a file, each parsed by `parse`, which raises ValueError with a message for a bad row.

    Raises UserError with the first bad rows and the count of the others (E202 not readable, E203 not a good row).
    """
    problems: list[Problem] = []
    return check_rows(rows_of(path, problems), parse, f"{path}:", problems, rules)


def check_rows(
    raw_rows: Iterable[Raw],
    parse: Callable[[Mapping[str, Any]], Parsed],
    where: str,
    problems: list[Problem] | None = None,
    rules: Rules | None = None,
) -> list[Parsed]:
    """As `read_rows`, for rows from any source; `where` and the row's number are its place in error messages."""
    rules = rules or Rules()
    problems = [] if problems is None else problems
    rows: list[Parsed] = []
    columns: dict[str, None] = {}
    missing: list[str] = []
    for number, row in raw_rows:
        try:
            rows.append(parse(row))
            if (label_type := rules.label_type(row)) is not None:
                rules.label_types.setdefault(label_type, f"{where}{number}")
        except UserError:
            raise
        except ValueError as error:
            problems.append(Problem("E203", str(error), f"{where}{number}"))
            if isinstance(error, MissingColumn):
                missing.append(error.column)
                columns.update(dict.fromkeys(map(str, row)) if len(columns) < _MOST_COLUMNS else {})
    if not rows and columns and len(set(missing)) == 1 and len(missing) == len(problems):
        raise _no_column(missing[0], list(columns), where.removesuffix(":"))
    if problems and not rules.drop:
        raise _refused(problems, where)
    rules.dropped += problems
    _refuse_mixed(rules.label_types)
    if not rows:
        what = f"no rows ({len(problems):,} were dropped)" if problems else "no rows"
        raise user_error("E201", what, where.rstrip(":"), "give a file with at least one row")
    return rows


def read_mappings(path: Path) -> list[Raw]:
    """All rows of a file with their line numbers. Raises UserError E202 when it cannot be read."""
    problems: list[Problem] = []
    rows = list(rows_of(path, problems))
    if problems:
        raise UserError(*problems[:_SHOWN])
    return rows


def _no_column(column: str, columns: list[str], where: str) -> UserError:
    names = ", ".join(ascii(name)[1:-1] for name in columns[:_MOST_COLUMNS])
    what = f"no row has a column {column!r}{suggest(column, columns)}; the columns are {names}"
    return user_error("E203", what, where, "name one of these columns in the task")


def _refused(problems: list[Problem], where: str) -> UserError:
    more = f"and {len(problems) - _SHOWN:,} more bad lines"
    fix = "correct the rows, or set task.on_bad_row=drop to leave them out"
    shown = problems[:_SHOWN]
    if len(problems) > _SHOWN:
        return UserError(*shown, Problem("E203", more, where, fix))
    last = shown[-1]
    fix = f"{last.fix}, or set task.on_bad_row=drop to leave such rows out" if last.fix else fix
    return UserError(*shown[:-1], replace(last, fix=fix))


def _refuse_mixed(types: Mapping[LabelType, str]) -> None:
    if len(types) > 1:
        places = ", ".join(f"a {kind} at {place}" for kind, place in types.items())
        what = f"the labels are of {len(types)} types: {places}"
        raise user_error("E203", what, fix="write all labels as strings, or all as whole numbers")
