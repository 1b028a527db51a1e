"""Files of rows: JSON lines, CSV or Parquet, read as mappings with the place of each row for error messages.

No format that can carry code is read.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from p2p_dist.data.example import RawRow
from p2p_dist.errors import Problem, UserError, user_error

SUFFIXES = (".jsonl", ".csv", ".parquet")
_SHOWN = 5

Raw = tuple[int, Mapping[str, Any]]


def read_rows(path: Path, check: Callable[[Mapping[str, Any]], RawRow]) -> list[RawRow]:
    """All rows of a file, each parsed by `check`, which raises ValueError with a message for a bad row.

    Raises UserError with the first bad rows and the count of the others (E202 not readable, E203 not a good row).
    """
    problems: list[Problem] = []
    return check_rows(_read(path, problems), check, f"{path}:", problems)


def check_rows(
    raw_rows: Iterable[Raw],
    check: Callable[[Mapping[str, Any]], RawRow],
    where: str,
    problems: list[Problem] | None = None,
) -> list[RawRow]:
    """As `read_rows`, for rows from any source; `where` and the row's number are its place in error messages."""
    rows: list[RawRow] = []
    problems = [] if problems is None else problems
    for number, row in raw_rows:
        try:
            rows.append(check(row))
        except ValueError as error:
            problems.append(Problem("E203", str(error), f"{where}{number}"))
    if problems:
        more = (
            [Problem("E203", f"and {len(problems) - _SHOWN} more bad lines", where)] if len(problems) > _SHOWN else []
        )
        raise UserError(*problems[:_SHOWN], *more)
    if not rows:
        raise user_error("E201", "no rows", where.rstrip(":"), "give a file with at least one row")
    return rows


def read_mappings(path: Path) -> list[Raw]:
    """All rows of a file with their line numbers. Raises UserError E202 when it cannot be read."""
    problems: list[Problem] = []
    rows = list(_read(path, problems))
    if problems:
        raise UserError(*problems[:_SHOWN])
    return rows


def _read(path: Path, problems: list[Problem]) -> Iterator[Raw]:
    if path.suffix == ".jsonl":
        return _json_lines(path, problems)
    if path.suffix == ".csv":
        return _csv(path, problems)
    if path.suffix == ".parquet":
        return _parquet(path)
    raise user_error(
        "E210", f"{path.suffix or 'no'} format is not read", str(path), f"convert it to one of {', '.join(SUFFIXES)}"
    )


def _json_lines(path: Path, problems: list[Problem]) -> Iterator[Raw]:
    decode = json.JSONDecoder().decode
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = decode(line.decode("utf-8"))
            except (UnicodeDecodeError, json.JSONDecodeError) as error:
                problems.append(
                    Problem(
                        "E202",
                        f"not a JSON object in UTF-8: {error}",
                        f"{path}:{number}",
                        "check whether the file is cut off",
                    )
                )
                continue
            yield number, row if isinstance(row, dict) else {}


def _csv(path: Path, problems: list[Problem]) -> Iterator[Raw]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for row in reader:
                if None in row or None in row.values():
                    what = (
                        f"{'more' if None in row else 'fewer'} fields than the {len(reader.fieldnames or ())} of "
                        "the first line"
                    )
                    problems.append(
                        Problem(
                            "E202",
                            what,
                            f"{path}:{reader.line_num}",
                            "check whether the file is cut off or a quote is missing",
                        )
                    )
                else:
                    yield reader.line_num, row
        except (UnicodeDecodeError, csv.Error) as error:
            problems.append(Problem("E202", f"not a CSV file in UTF-8: {error}", f"{path}:{reader.line_num + 1}"))


def _parquet(path: Path) -> Iterator[Raw]:
    from pyarrow import ArrowInvalid, parquet  # a second to import, and only needed here

    try:
        rows = parquet.read_table(path).to_pylist()
    except (ArrowInvalid, OSError) as error:
        raise user_error("E202", f"not a Parquet file: {error}", str(path)) from error
    return iter(list(enumerate(rows, start=1)))
