"""Formats of files of rows: JSON lines, a JSON array, CSV, TSV, Parquet and Arrow, and the text forms compressed by
gzip or zstd. No format that can carry code is read.

Rows are mappings with their place in the file. Only the cells that a task reads are looked at.
"""

import csv
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from p2p_dist.data.compressed_files import opened
from p2p_dist.errors import Problem, UserError, user_error

TEXT_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")
COMPRESSED = (".gz", ".zst")
SUFFIXES = (*TEXT_SUFFIXES, ".parquet", ".arrow")
FILE_SUFFIXES = (*SUFFIXES, *(text + packed for text in TEXT_SUFFIXES for packed in COMPRESSED))
"""Endings of the files that are read."""

Raw = tuple[int, Mapping[str, Any]]
"""Line or row in the file, counted from 1, and the row."""

_BOM = b"\xef\xbb\xbf"
_LONGEST_LINE = 1 << 28
_CUT_OFF = "check whether the file is cut off"


def rows_of(path: Path, problems: list[Problem]) -> Iterator[Raw]:
    """All rows of a file; lines that are not rows are added to `problems`.

    Raises UserError E202 for a file that cannot be read, E210 for another format.
    """
    name = path.with_suffix("") if path.suffix in COMPRESSED else path
    if name.suffix not in (TEXT_SUFFIXES if name != path else SUFFIXES):
        what, fix = f"{path.suffix or 'no'} format is not read", f"convert it to one of {', '.join(SUFFIXES)}"
        raise user_error("E210", what, str(path), fix)
    return _guarded(path, _tables(path) if name.suffix in (".parquet", ".arrow") else _texts(path, name, problems))


def count_rows(path: Path) -> int | None:
    """Number of rows that a plan may expect: lines of JSON lines, records of CSV and TSV below the first. None for
    other formats and for a file that is not read as one of these."""
    try:
        if path.suffix == ".jsonl":
            with path.open("rb") as lines:
                return sum(1 for _ in lines)
        if path.suffix in (".csv", ".tsv"):
            with path.open(encoding="utf-8-sig", newline="") as text:
                records = csv.reader(text, "excel" if path.suffix == ".csv" else "excel-tab")
                return max(0, sum(1 for fields in records if fields) - 1)
    except (csv.Error, UnicodeDecodeError):
        return None
    return None


def _texts(path: Path, name: Path, problems: list[Problem]) -> Iterator[Raw]:
    with opened(path) as file:
        if name.suffix in (".csv", ".tsv"):
            return (yield from _csv(path, file, problems, name.suffix == ".tsv"))
        if name.suffix == ".json" and file.peek(64)[:64].removeprefix(_BOM).lstrip()[:1] == b"[":
            return (yield from _json_array(path, file))
        yield from _json_lines(path, file, problems)


def _guarded(path: Path, rows: Iterator[Raw]) -> Iterator[Raw]:
    """The rows; errors of the formats' libraries become UserError E202."""
    import zstandard

    try:
        yield from rows
    except UserError:
        raise
    except UnicodeDecodeError as error:
        raise user_error("E202", f"not UTF-8: {error}", str(path), "save the file as UTF-8") from error
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise user_error("E202", f"cannot be read: {error}", str(path), _CUT_OFF) from error


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"two values for the key {next(key for key in keys if keys.count(key) > 1)!a}")
    return row


class _LongNumber:
    """A number with too many digits to be read; refused by type where a task reads its column."""


_decode = json.JSONDecoder(object_pairs_hook=_unique)
_decode_long = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=lambda digits: int(digits) if len(digits) <= 400 else _LongNumber()
)


def _from_json(decode: Callable[[json.JSONDecoder], Any]) -> Any:
    """A decoded value. Raises ValueError with the reason where there is none."""
    try:
        return decode(_decode)
    except json.JSONDecodeError as error:
        raise ValueError(f"not a JSON object in UTF-8: {error}") from error
    except RecursionError as error:
        raise ValueError("not read: nested too deeply") from error
    except ValueError as error:
        if "two values" in str(error):
            raise
        return decode(_decode_long)


def _json_lines(path: Path, file: io.BufferedReader, problems: list[Problem]) -> Iterator[Raw]:
    for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE), b""), start=1):
        content = line.removeprefix(_BOM) if number == 1 else line
        if not content.strip():
            continue
        if len(line) == _LONGEST_LINE:
            raise user_error("E202", f"a line of more than {_LONGEST_LINE:,} bytes", f"{path}:{number}", _CUT_OFF)
        try:
            text = content.decode("utf-8")
            row = _from_json(lambda decoder, text=text: decoder.decode(text))  # type: ignore[misc]
        except UnicodeDecodeError as error:
            problems.append(Problem("E202", f"not a JSON object in UTF-8: {error}", f"{path}:{number}", _CUT_OFF))
        except ValueError as error:
            problems.append(Problem("E202", str(error), f"{path}:{number}", _CUT_OFF))
        else:
            yield number, _row(row)


def _json_array(path: Path, file: io.BufferedReader) -> Iterator[Raw]:
    """Rows of one JSON array, each with the line on which it begins."""
    text = file.read().decode("utf-8-sig")
    position, line = text.index("[") + 1, text.count("\n", 0, text.index("[")) + 1
    while True:
        start = _next(text, position)
        line += text.count("\n", position, start)
        if text[start : start + 1] == "]" and not text[start + 1 :].strip():
            return
        try:
            row, position = _from_json(lambda decoder, start=start: decoder.raw_decode(text, start))  # type: ignore[misc]
            end = _next(text, position)
            if text[end : end + 1] not in (",", "]"):
                raise ValueError("not a JSON array: no comma behind a row")
        except ValueError as error:
            raise user_error("E202", str(error), f"{path}:{line}", _CUT_OFF) from error
        yield line, _row(row)
        line += text.count("\n", start, end)
        position = end + (text[end] == ",")


def _next(text: str, position: int) -> int:
    """Position of the next character that is no white space."""
    while text[position : position + 1] in (" ", "\t", "\r", "\n"):
        position += 1
    return position


def _row(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _csv(path: Path, file: io.BufferedReader, problems: list[Problem], tabs: bool) -> Iterator[Raw]:
    csv.field_size_limit(2**31 - 1)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    reader = csv.reader(text, "excel-tab" if tabs else "excel", strict=True)
    try:
        columns = next(reader, [])
        _refuse_repeated(columns, f"{path}:1")
        for fields in reader:
            where = f"{path}:{reader.line_num}"
            if not fields:
                continue
            if len(fields) != len(columns):
                amount = "more" if len(fields) > len(columns) else "fewer"
                what = f"{amount} fields than the {len(columns)} of the first line"
                problems.append(Problem("E202", what, where, f"{_CUT_OFF} or a quote is missing"))
            elif tabs and any("\n" in field or "\t" in field for field in fields):
                what = "a quoted cell with a tab or a line break, which other programs read as several cells"
                problems.append(Problem("E202", what, where, "convert the file to CSV or JSON lines"))
            else:
                yield reader.line_num, dict(zip(columns, fields, strict=True))
    except csv.Error as error:
        what, where = f"not a CSV file in UTF-8: {error}", f"{path}:{reader.line_num + 1}"
        problems.append(Problem("E202", what, where, f"{_CUT_OFF} or a quote is missing"))
    finally:
        text.detach()


def _refuse_repeated(columns: Sequence[str], where: str) -> None:
    if repeated := sorted({column for column in columns if columns.count(column) > 1}):
        what = f"two columns have the name {', '.join(map(ascii, repeated))}"
        raise user_error("E202", what, where, "rename one of them")


class _Column:
    """A column of an Arrow batch. Of a file that may be damaged, it is validated before its first cell is converted,
    because offsets out of bounds would end the process."""

    def __init__(self, values: Any, validated: bool, where: str):
        self.values, self.validated, self.where = values, validated, where

    def cell(self, index: int) -> Any:
        """The value of a row. Raises UserError E202 for a damaged column."""
        if not self.validated:
            try:
                self.values.validate(full=True)
            except ValueError as error:
                raise user_error("E202", f"damaged: {error}", self.where, _CUT_OFF) from error
            self.validated = True
        return self.values[index].as_py()


class _ArrowRow(Mapping[str, Any]):
    """A row of an Arrow batch, given as its columns by name; a cell is converted when it is looked at."""

    def __init__(self, columns: Mapping[str, _Column], index: int):
        self.columns, self.index = columns, index

    def __getitem__(self, column: str) -> Any:
        try:
            return self.columns[column].cell(self.index)
        except UserError:
            raise
        except (ValueError, OverflowError) as error:
            raise ValueError(f"column {column!r} cannot be read: {error}") from error

    def __contains__(self, column: object) -> bool:
        return column in self.columns

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)


def _tables(path: Path) -> Iterator[Raw]:
    from pyarrow import ArrowException, ArrowInvalid, ipc, memory_map, parquet  # a second to import, only needed here

    kind = "a Parquet" if path.suffix == ".parquet" else "an Arrow"
    batches: Iterable[Any]
    try:
        if path.suffix == ".parquet":
            file = parquet.ParquetFile(path)
            names, batches = file.schema_arrow.names, file.iter_batches()
        else:
            mapped = memory_map(str(path))
            try:
                reader = ipc.open_file(mapped)
                batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
            except ArrowInvalid:
                mapped.seek(0)
                reader = batches = ipc.open_stream(mapped)
            names = reader.schema.names
        _refuse_repeated(names, str(path))
        number = 0
        for batch in batches:
            validated = path.suffix == ".parquet"  # whose reader has computed the offsets itself
            columns = {
                name: _Column(values, validated, str(path)) for name, values in zip(names, batch.columns, strict=True)
            }
            for index in range(batch.num_rows):
                number += 1
                yield number, _ArrowRow(columns, index)
    except (ArrowException, OSError) as error:
        raise user_error("E202", f"not {kind} file: {error}", str(path), _CUT_OFF) from error
