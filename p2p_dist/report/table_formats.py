"""A table as data, and as Markdown, LaTeX (booktabs) and CSV. A missing number is a dash, never 0; CSV leaves it
empty."""

import csv
import io
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

DASH = "–"
_DAGGER = r"$^\dagger$"
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
    """What a cell shows, its small print (interval, count), the number it is sorted by, and whether it is the best of
    its row. `flag` warns of the number: a line of its own on the page, the end of the small print elsewhere, a dagger
    in LaTeX."""

    text: str
    detail: str = ""
    sort: float | None = None
    best: bool = False
    flag: str = ""

    @property
    def small(self) -> str:
        """The small print and the warning on one line."""
        return ", ".join(part for part in (self.detail, self.flag) if part)

    @property
    def shown(self) -> str:
        return self.text or DASH


@dataclass(frozen=True)
class Table:
    """A table: `name` is its file's name, `lead` how many columns say what a row is. `note` explains what is not
    obvious. `feet` are lines below the body, each with a title and a text for every group of columns."""

    name: str
    title: str
    head: Sequence[Head]
    rows: Sequence[Sequence[Cell]]
    lead: int = 1
    note: str = ""
    feet: Sequence[tuple[str, Mapping[str, str]]] = field(default_factory=tuple)

    def titles(self) -> list[str]:
        """Column titles with their group, for formats that have one line of them."""
        return [f"{head.group} {head.text}".strip() for head in self.head]

    def foot_lines(self) -> list[list[str]]:
        """The feet with a text for every column: the title in the first one, a group's text in the group's first."""
        groups = [head.group for head in self.head]
        firsts = [bool(group) and groups.index(group) == at for at, group in enumerate(groups)]
        return [
            [
                title if at == 0 else texts.get(group, "") if first else ""
                for at, (group, first) in enumerate(zip(groups, firsts, strict=True))
            ]
            for title, texts in self.feet
        ]


def percent(value: float | None, digits: int = 1) -> str:
    """A share in percent, without the sign; empty for None."""
    return "" if value is None else f"{100 * value:.{digits}f}"


def markdown(table: Table) -> str:
    """With the small print behind the number."""
    lines = [table.titles(), ["---"] * len(table.head)]
    lines += [
        [_md(f"**{cell.shown}**" if cell.best else cell.shown) + _md_small(cell) for cell in row] for row in table.rows
    ]
    lines += [[_md(text) for text in line] for line in table.foot_lines()]
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"**{table.title}**\n\n{body}\n" + (f"\n{table.note}\n" if table.note else "")


def latex(table: Table) -> str:
    """For `\\input` in a paper: booktabs, groups of columns spanned, the best in bold. Small print is left to the
    caption; what is flagged has a dagger."""
    columns = "l" * table.lead + "r" * (len(table.head) - table.lead)
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    if any(head.group for head in table.head):
        lines += _spans(table)
    lines += [_row([tex(head.text) for head in table.head]), r"\midrule"]
    lines += [
        _row(
            [
                (rf"\textbf{{{tex(cell.shown)}}}" if cell.best else tex(cell.shown)) + (_DAGGER if cell.flag else "")
                for cell in row
            ]
        )
        for row in table.rows
    ]
    if table.feet:
        lines += [r"\midrule", *(_foot(table, title, texts) for title, texts in table.feet)]
    caption = (
        [f"% {_DAGGER}: collapsed, to be said in the caption"]
        if any(cell.flag for row in table.rows for cell in row)
        else []
    )
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", *caption, ""])


def comma_separated(table: Table) -> str:
    """Text and small print in columns of their own where there is any."""
    detailed = [any(row[at].small for row in table.rows) for at in range(len(table.head))]
    head = [
        title
        for at, text in enumerate(table.titles())
        for title in ([text, f"{text} (detail)"] if detailed[at] else [text])
    ]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(head)
    for row in [*table.rows, *([Cell(text) for text in line] for line in table.foot_lines())]:
        writer.writerow(
            [
                _inert(text)
                for at, cell in enumerate(row)
                for text in ([cell.text, cell.small] if detailed[at] else [cell.text])
            ]
        )
    return buffer.getvalue()


def tex(text: str) -> str:
    """Plain text for LaTeX."""
    return text.translate(_LATEX)


def consecutive(heads: Sequence[Head]) -> Iterator[tuple[str, list[Head]]]:
    """Neighbouring columns by the group that they share; empty for those without."""
    for group, members in itertools.groupby(heads, key=lambda head: head.group):
        yield group, list(members)


def _spans(table: Table) -> list[str]:
    cells, rules, at = [], [], 0
    for group, heads in consecutive(table.head):
        end = at + len(heads)
        cells += [_span(len(heads), group)] if group else [""] * len(heads)
        rules += [rf"\cmidrule(lr){{{at + 1}-{end}}}"] if group else []
        at = end
    return [_row(cells), " ".join(rules)]


def _foot(table: Table, title: str, texts: Mapping[str, str]) -> str:
    groups = list(consecutive(table.head))
    cells = [
        cell
        for group, heads in groups
        for cell in ([_span(len(heads), texts.get(group, ""))] if group else [""] * len(heads))
    ]
    return _row([tex(title), *cells[1:]])


def _span(columns: int, text: str) -> str:
    return rf"\multicolumn{{{columns}}}{{c}}{{{tex(text)}}}"


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _md(text: str) -> str:
    return re.sub(r"([|`<>\[\]])", r"\\\1", " ".join(text.split()))


def _md_small(cell: Cell) -> str:
    return f" {_md(cell.small)}" if cell.detail else f", {_md(cell.flag)}" if cell.flag else ""


def _inert(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "@") or (text[:1] == "-" and not re.match(r"-[\d.]", text)) else text
