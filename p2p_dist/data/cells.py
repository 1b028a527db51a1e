"""Cells of a row, read by type: a text, a label, a number. A value of another type is refused, never spelled out.

A column is named by its name, or by a path into nested columns: `meta.text` is the key `text` of the column `meta`.
"""

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal

LabelType = Literal["string", "number", "boolean"]
Row = Mapping[str, object]

_LARGEST_LABEL = 10**18
_SHOWN = 60


class MissingColumn(ValueError):
    """A row without a column that the task reads."""

    def __init__(self, column: str, row: Row):
        names = ", ".join(ascii(name)[1:-1] for name in list(row)[:8]) or "none"
        super().__init__(f"column {column!r} is missing; the row has {names}")
        self.column = column


def cell(row: Row, column: str) -> object:
    """The value of a column. Raises MissingColumn, or ValueError where it is null."""
    if (value := _value(row, column)) is None:
        raise ValueError(f"column {column!r} is null")
    return value


def _value(row: Row, column: str) -> object:
    """The value of a column, None for null. Raises MissingColumn."""
    value: Any = row
    for key in [column] if column in row else column.split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise MissingColumn(column, row)
        value = value[key]
    return value


def text(row: Row, column: str) -> str:
    """A text without the spaces around it. Raises ValueError where it is empty or no text."""
    value = cell(row, column)
    if isinstance(value, str):
        return checked(value, f"column {column!r}")
    raise ValueError(f"column {column!r} is {described(value)}, not text{_hint(value, column)}")


def is_blank(row: Row, column: str) -> bool:
    """True where a column is null or an empty text. Raises MissingColumn."""
    value = _value(row, column)
    return value is None or (isinstance(value, str) and not value.strip())


def label(row: Row, column: str) -> tuple[str, LabelType]:
    """The name of a label, and the type of its cell. Raises ValueError for a value that names no class.

    0 and 0.0 are one number; booleans are `True` and `False`; strings are taken as they are.
    """
    value = cell(row, column)
    if isinstance(value, str):
        return checked(value, f"column {column!r}"), "string"
    if isinstance(value, bool):
        return str(value), "boolean"
    if isinstance(value, int | float | Decimal) and _finite(value):
        whole = int(value)
        if abs(whole) >= _LARGEST_LABEL:
            raise ValueError(f"column {column!r} is a number of more than 18 digits, which names no class")
        if value == whole:
            return str(whole), "number"
    expected = "a label is a string, a whole number or a boolean"
    raise ValueError(f"column {column!r} is {described(value)}; {expected}{_hint(value, column)}")


def response(row: Row, column: str, numbers: bool) -> str:
    """The text of an answer; with `numbers`, a number too, in decimal digits ("0.00001"). Raises ValueError."""
    value = cell(row, column)
    if numbers and isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        if not _finite(value):
            raise ValueError(f"column {column!r} is {described(value)}, not a number")
        return digits(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f"column {column!r} is {described(value)}, not text: write it as text, or set judge: number")
    return text(row, column)


def digits(value: int | float | Decimal) -> str:
    """A finite number in decimal digits, without an exponent. Raises ValueError beyond 400 digits."""
    decimal = value if isinstance(value, Decimal) else Decimal(repr(value) if isinstance(value, float) else value)
    if abs(decimal.adjusted()) > 400:
        raise ValueError("a number of more than 400 digits")
    spelled = format(decimal, "f")
    return spelled.rstrip("0").rstrip(".") if "." in spelled else spelled


def checked(value: str, name: str) -> str:
    """A text without the spaces around it. Raises ValueError where it is empty or has a lone surrogate."""
    if not value.isascii() and (surrogate := re.search("[\ud800-\udfff]", value)):
        where = f"character {surrogate.start() + 1}"
        raise ValueError(f"{name} has a lone surrogate ({surrogate[0]!a}, {where}), which is no character")
    if not (stripped := value.strip()):
        raise ValueError(f"{name} is empty")
    return stripped


def described(value: object) -> str:
    """The kind of a value, for error messages."""
    if isinstance(value, bool):
        return f"a boolean ({str(value).lower()})"
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    if isinstance(value, int | float | Decimal):
        large = isinstance(value, int) and abs(value) >= _LARGEST_LABEL
        return "a number of more than 18 digits" if large else f"a number ({value})"
    if isinstance(value, str):
        return f"the text {value[:_SHOWN]!a}"
    if isinstance(value, bytes | bytearray):
        return "bytes"
    if isinstance(value, Mapping):
        return f"a mapping with the keys {', '.join(ascii(key)[1:-1] for key in list(value)[:8]) or 'none'}"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return f"of the type {type(value).__name__}"


def _finite(value: int | float | Decimal) -> bool:
    return isinstance(value, int) or math.isfinite(value)


def _hint(value: object, column: str) -> str:
    if isinstance(value, Mapping) and value:
        return f"; name a key of it, such as {column}.{next(iter(value))}"
    if isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
        return f"; for a list of chat turns set chat_column: {column}"
    return ""
