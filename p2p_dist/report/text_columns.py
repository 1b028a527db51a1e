"""Tables of plain text in at most 80 columns, and numbers in them."""

import textwrap
from collections.abc import Sequence

WIDTH = 80
"""Columns of a terminal."""
_INDENT, _GAP = 2, 2
_LEAST = 24
"""Least width of a column whose cells are folded."""


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 run, 2 runs."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def columns(table: Sequence[Sequence[str]]) -> list[str] | None:
    """Aligned columns, or None where they are wider than a terminal."""
    widths = _widths(table)
    return None if _total(widths) > WIDTH else [_line(row, widths) for row in table]


def folded_columns(table: Sequence[Sequence[str]]) -> list[str] | None:
    """As `columns`, with the widest column behind the others and its cells folded; None where the others leave no
    room."""
    widths = _widths(table)
    widest = widths.index(max(widths))
    before = [*widths[:widest], *widths[widest + 1 :]]
    room = WIDTH - _total(before) - _GAP
    if room < _LEAST:
        return None
    lines = []
    for row in table:
        first, *further = textwrap.wrap(row[widest], room, subsequent_indent="  ", break_on_hyphens=False) or [""]
        others = [*row[:widest], *row[widest + 1 :]]
        lines.append(_line([*others, first], [*before, room]))
        lines += [_line(["" for _ in others] + [part], [*before, room]) for part in further]
    return lines


def _widths(table: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*table, strict=True)]


def _total(widths: Sequence[int]) -> int:
    return _INDENT + sum(widths) + _GAP * (len(widths) - 1)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
    return (" " * _INDENT + (" " * _GAP).join(cells)).rstrip()
