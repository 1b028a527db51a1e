"""Tables as Markdown and CSV. A missing number is a dash, never 0; CSV leaves it empty."""

import csv
import io
import re

from p2p_dist.errors import printable
from p2p_dist.report.table import Cell, Table


def markdown(table: Table) -> str:
    """With the small print behind the number."""
    lines = [table.titles(), ["---"] * len(table.head)]
    lines += [
        [_md(f"**{cell.shown}**" if cell.best else cell.shown) + _md_small(cell) for cell in row]
        for row in table.all_rows()
    ]
    lines += [[_md(text) for text in line] for line in table.foot_lines()]
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    title, note = printable(table.title), printable(table.note)
    return f"**{title}**\n\n{body}\n" + (f"\n{note}\n" if note else "")


def comma_separated(table: Table) -> str:
    """Text and small print in columns of their own where there is any."""
    rows = table.all_rows()
    detailed = [any(row[column].small for row in rows) for column in range(len(table.head))]
    head = [
        title
        for text, has_detail in zip(table.titles(), detailed, strict=True)
        for title in ([text, f"{text} (detail)"] if has_detail else [text])
    ]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(head)
    for row in [*rows, *([Cell(text) for text in line] for line in table.foot_lines())]:
        writer.writerow(
            [
                inert_cell(text)
                for cell, has_detail in zip(row, detailed, strict=True)
                for text in ([cell.text, cell.small] if has_detail else [cell.text])
            ]
        )
    return buffer.getvalue()


def _md(text: str) -> str:
    return re.sub(r"([|`<>\[\]])", r"\\\1", printable(" ".join(text.split())))


def _md_small(cell: Cell) -> str:
    return f" {_md(cell.small)}" if cell.detail else f", {_md(cell.flag)}" if cell.flag else ""


def inert_cell(text: str) -> str:
    """Text that no spreadsheet takes for a formula, with control characters as escapes."""
    text = printable(text)
    return f"'{text}" if text[:1] in ("=", "+", "@") or (text[:1] == "-" and not re.match(r"-[\d.]", text)) else text
