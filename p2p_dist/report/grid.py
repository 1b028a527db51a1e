"""A table as data, and as Markdown, LaTeX (booktabs) and CSV. A missing number is a dash, never 0; CSV leaves it empty."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

DASH = "–"
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "×": r"$\times$",
        "–": "--",
        "↑": r"$\uparrow$",
        "↓": r"$\downarrow$",
        "α": r"$\alpha$",
        "β": r"$\beta$",
        "ε": r"$\varepsilon$",
        "−": "$-$",
        "≥": r"$\geq$",
        "<": "$<$",
        ">": "$>$",
    }
)


@dataclass(frozen=True)
class Head:
    """A column: its title and what it means. `group` is printed once over neighbours that share it."""

    text: str
    meaning: str = ""
    group: str = ""


@dataclass(frozen=True)
class Cell:
    """What a cell shows, its small print (interval, count), the number it is sorted by, and whether it is the best of its row."""

    text: str
    detail: str = ""
    sort: float | None = None
    best: bool = False

    @property
    def shown(self) -> str:
        return self.text or DASH


@dataclass(frozen=True)
class Table:
    """A table: `name` is its file's name, `lead` how many columns say what a row is. `note` explains what is not obvious."""

    name: str
    title: str
    head: Sequence[Head]
    rows: Sequence[Sequence[Cell]]
    lead: int = 1
    note: str = ""
    footnotes: Sequence[str] = field(default_factory=tuple)

    def titles(self) -> list[str]:
        """Column titles with their group, for formats that have one line of them."""
        return [f"{head.group} {head.text}".strip() for head in self.head]


def percent(value: float | None, digits: int = 1) -> str:
    """A share in percent, without the sign; empty for None."""
    return "" if value is None else f"{100 * value:.{digits}f}"


def markdown(table: Table) -> str:
    """With the small print behind the number."""
    lines = [table.titles(), ["---"] * len(table.head)]
    lines += [[_md(f"**{cell.shown}**" if cell.best else cell.shown) + (f" {_md(cell.detail)}" if cell.detail else "") for cell in row] for row in table.rows]
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"**{table.title}**\n\n{body}\n" + (f"\n{table.note}\n" if table.note else "")


def latex(table: Table) -> str:
    """For `\\input` in a paper: booktabs, groups of columns spanned, the best in bold. Small print is left to the caption."""
    columns = "l" * table.lead + "r" * (len(table.head) - table.lead)
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    if any(head.group for head in table.head):
        lines += _spans(table)
    lines += [_row([tex(head.text) for head in table.head]), r"\midrule"]
    lines += [_row([rf"\textbf{{{tex(cell.shown)}}}" if cell.best else tex(cell.shown) for cell in row]) for row in table.rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def comma_separated(table: Table) -> str:
    """Text and small print in columns of their own where there is any."""
    detailed = [any(row[at].detail for row in table.rows) for at in range(len(table.head))]
    head = [title for at, text in enumerate(table.titles()) for title in ([text, f"{text} (detail)"] if detailed[at] else [text])]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(head)
    for row in table.rows:
        writer.writerow([_inert(text) for at, cell in enumerate(row) for text in ([cell.text, cell.detail] if detailed[at] else [cell.text])])
    return buffer.getvalue()


def tex(text: str) -> str:
    """Plain text for LaTeX."""
    return text.translate(_LATEX)


def _spans(table: Table) -> list[str]:
    cells, rules, at = [], [], 0
    while at < len(table.head):
        group, end = table.head[at].group, at
        while end < len(table.head) and table.head[end].group == group:
            end += 1
        if group:
            cells.append(rf"\multicolumn{{{end - at}}}{{c}}{{{tex(group)}}}")
            rules.append(rf"\cmidrule(lr){{{at + 1}-{end}}}")
        else:
            cells += [""] * (end - at)
        at = end
    return [_row(cells), " ".join(rules)]


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _md(text: str) -> str:
    return re.sub(r"([|`<>\[\]])", r"\\\1", " ".join(text.split()))


def _inert(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "@") or (text[:1] == "-" and not re.match(r"-[\d.]", text)) else text
