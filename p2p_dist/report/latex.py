"""Tables for `\\input` in a paper: booktabs, ± and n, and only what would be printed."""

import re
from collections.abc import Mapping, Sequence

from p2p_dist.report.table import Cell, Table, consecutive

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
_N = re.compile(r"(?:^| )(?:n=(?P<n>\S+)|\d+/(?P<of>\d+))$")
"""The count at the end of small print: `n=3×200`, `n=200` or `8/200`."""


def latex(table: Table) -> str:
    """A tabular with groups of columns spanned and the best in bold. Deviations and intervals stand behind their
    numbers; n has a line below the headings where a column has one n, and stands in the cells where it varies. What is
    flagged has a dagger. Left out are columns that no paper prints, and labels that are the same in every row."""
    constant = _constant_labels(table)
    printed = [c for c, head in enumerate(table.head) if head.printed and c not in constant]
    columns = printed or list(range(len(table.head)))
    comments = [f"% {table.head[c].text}: {_plain(text)}" for c, text in constant.items() if table.head[c].printed]
    return _tabular(table.with_columns(columns), comments if printed else [])


def tex(text: str) -> str:
    """Plain text for LaTeX."""
    return text.translate(_LATEX)


def _tabular(table: Table, comments: Sequence[str]) -> str:
    columns = "l" * table.lead + "r" * (len(table.head) - table.lead)
    lines = [*comments, rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    if any(head.group for head in table.head):
        lines += _spans(table)
    counts = _column_counts(table)
    lines += [_row([tex(head.text) for head in table.head])]
    if any(counts):
        lines += [_row([rf"$n={tex(count).replace('$', '')}$" if count else "" for count in counts])]
    rows = table.all_rows()
    lines += [
        r"\midrule",
        *(
            _row([*map(_label, row[: table.lead]), *map(_number, row[table.lead :], counts[table.lead :])])
            for row in rows
        ),
    ]
    if table.feet:
        lines += [r"\midrule", *(_foot(table, title, texts) for title, texts in table.feet)]
    flagged = any(cell.flag for row in rows for cell in row)
    caption = [f"% {_DAGGER}: collapsed, to be said in the caption"] if flagged else []
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", *caption, ""])


def _constant_labels(table: Table) -> dict[int, str]:
    """Label columns with one and the same text in all of several rows, which a caption says once. The last label
    column stays."""
    rows = table.all_rows()
    columns = range(table.lead - 1) if len(rows) > 1 else ()
    return {c: rows[0][c].shown for c in columns if len({row[c].shown for row in rows}) == 1}


def _column_counts(table: Table) -> list[str]:
    """The n of every column whose rows all have the same; empty for the others."""
    counts = []
    for column in range(len(table.head)):
        numbers = {_count(row[column]) for row in table.all_rows() if row[column].detail}
        counts.append(numbers.pop() if len(numbers) == 1 and column >= table.lead else "")
    return counts


def _count(cell: Cell) -> str:
    """The n in a cell's small print; empty where there is none."""
    match = _N.search(cell.detail)
    return (match["n"] or match["of"]) if match else ""


def _label(cell: Cell) -> str:
    return tex(cell.shown) + (_DAGGER if cell.flag else "")


def _number(cell: Cell, column_count: str) -> str:
    """A number with its uncertainty, and with its n where the column has none."""
    text = rf"\textbf{{{tex(cell.shown)}}}" if cell.best else tex(cell.shown)
    uncertainty = _N.sub("", cell.detail) if _count(cell) == column_count else cell.detail
    if uncertainty.startswith("±"):
        text += f" {tex(uncertainty)}"
    elif uncertainty:
        text += rf" {{\scriptsize {tex(uncertainty)}}}"
    return text + (_DAGGER if cell.flag else "")


def _spans(table: Table) -> list[str]:
    cells, rules, start = [], [], 0
    for group, heads in consecutive(table.head):
        end = start + len(heads)
        cells += [_span(len(heads), group)] if group else [""] * len(heads)
        rules += [rf"\cmidrule(lr){{{start + 1}-{end}}}"] if group else []
        start = end
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


def _plain(text: str) -> str:
    """Text that stays in one line of comments."""
    return " ".join(text.split())
