"""A table of the report as data: columns, cells with small print, lines below the body."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

DASH = "–"


@dataclass(frozen=True)
class Head:
    """A column: its title and what it means. `group` is printed once over neighbours that share it. `printed` is false
    for what serves the reader of a page and not of a paper (ids, hosts, logs): LaTeX leaves it out."""

    text: str
    meaning: str = ""
    group: str = ""
    printed: bool = True


@dataclass(frozen=True)
class Cell:
    """The text of a cell, its small print (interval, count), the number it is sorted by, and whether it is the best of
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


Rows = Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Table:
    """A table: `name` is its file's name, `lead` how many columns say what a row is. `note` explains what is not
    obvious. `feet` are lines below the body, each with a title and a text for every group of columns. `folded` are
    further rows, which the page folds away under `folded_title`; files have them behind the others."""

    name: str
    title: str
    head: Sequence[Head]
    rows: Rows
    lead: int = 1
    note: str = ""
    feet: Sequence[tuple[str, Mapping[str, str]]] = field(default_factory=tuple)
    folded: Rows = ()
    folded_title: str = ""

    def all_rows(self) -> Rows:
        """The rows, the folded ones included."""
        return [*self.rows, *self.folded]

    def titles(self) -> list[str]:
        """Column titles with their group, for formats that have one line of them."""
        return [f"{head.group} {head.text}".strip() for head in self.head]

    def foot_lines(self) -> list[list[str]]:
        """The feet with a text for every column: the title in the first one, a group's text in the group's first."""
        groups = [head.group for head in self.head]
        firsts = [bool(group) and groups.index(group) == column for column, group in enumerate(groups)]
        return [
            [
                title if column == 0 else texts.get(group, "") if first else ""
                for column, (group, first) in enumerate(zip(groups, firsts, strict=True))
            ]
            for title, texts in self.feet
        ]

    def with_columns(self, columns: Sequence[int]) -> "Table":
        """The table with these columns only, in the order given."""
        return replace(
            self,
            head=[self.head[column] for column in columns],
            rows=[[row[column] for column in columns] for row in self.rows],
            folded=[[row[column] for column in columns] for row in self.folded],
            lead=sum(column < self.lead for column in columns),
        )


GROUP_HEADS = (Head("task"), Head("model"), Head("attack"), Head("defense"))
"""Heads of the labels of a group of runs."""


def without_empty_columns(table: Table) -> Table:
    """The table without columns in which no row has anything. The first column stays."""
    rows = table.all_rows()
    filled = [c for c in range(len(table.head)) if c == 0 or any(row[c].text or row[c].small for row in rows)]
    return table if len(filled) == len(table.head) else table.with_columns(filled)


def consecutive(heads: Sequence[Head]) -> Iterator[tuple[str, list[Head]]]:
    """Neighbouring columns by the group that they share; empty for those without."""
    for group, members in itertools.groupby(heads, key=lambda head: head.group):
        yield group, list(members)


def percent(value: float | None, digits: int = 1) -> str:
    """A share in percent, without the sign; empty for None."""
    return "" if value is None else f"{100 * value:.{digits}f}"


def points(value: float) -> str:
    """A difference of shares in points, with its sign."""
    return f"{100 * value:+.1f}".replace("-", "−")
