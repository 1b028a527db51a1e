"""Profile of a data file: its columns, labels and lengths, from which `p2p-dist init` writes a study."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from p2p_dist.data import sources
from p2p_dist.data.answer_parsing import number
from p2p_dist.data.tables import SUFFIXES, Rules, read_mappings, read_rows
from p2p_dist.data.tasks.custom import Custom
from p2p_dist.errors import user_error

TEXT = (
    *("text", "sentence", "content", "review", "comment", "message", "tweet", "document", "body", "question"),
    *("prompt", "instruction", "input", "query"),
)
LABEL = ("label", "labels", "class", "category", "sentiment", "intent", "topic", "target", "rating", "verdict")
RESPONSE = ("response", "answer", "output", "completion", "reply", "summary", "solution")
CHAT = ("messages", "conversations")
"""Names that a column of texts, labels or responses usually has, likeliest first."""
_FEWEST_ROWS = 20
_NUMERIC_SHARE = 0.95
_NUMBER_LENGTH = 24
"""Characters of an answer that is nothing but a number; longer ones may only mention one."""


@dataclass(frozen=True)
class Columns:
    """The columns to read, as far as they are known: a text, and a label or a response."""

    text: str | None = None
    label: str | None = None
    response: str | None = None
    input: str | None = None
    """Column that stands below an instruction."""
    chat: str | None = None
    """Column of turns, in place of a text and a response."""


@dataclass(frozen=True)
class Profile:
    """The rows of a file or folder."""

    place: Path
    has_test: bool
    rows: Mapping[str, int]
    """Rows of every split."""
    text_column: str | None
    label_column: str | None = None
    response_column: str | None = None
    input_column: str | None = None
    chat_column: str | None = None
    labels: Mapping[str, int] = field(default_factory=dict)
    """Rows of every label, in the order of the labels' numbers; empty where answers are text."""
    numeric_answers: bool = False
    """True if nearly all responses evaluate to a number."""
    length: int = 0
    """Characters of the longer texts (95th percentile)."""
    task: Custom = field(default_factory=Custom)
    """Task that reads the rows, with their labels."""

    @property
    def answers_are_text(self) -> bool:
        """True if answers are text and not labels."""
        return bool(self.response_column or self.chat_column)

    def to_json(self) -> dict[str, object]:
        columns = {"text": self.text_column, "label": self.label_column, "response": self.response_column}
        more = {"input": self.input_column, "chat": self.chat_column}
        columns |= {key: value for key, value in more.items() if value}
        return {"data": str(self.place), "rows": dict(self.rows), "columns": columns, "labels": dict(self.labels)}


def profile(place: Path, named: Columns) -> Profile:
    """Read all rows of a file, or of a folder with a file for each split.

    Raises UserError E125 when columns are not recognised, E126 for too few rows, E201 when there is no such file, E202
    and E203 for rows that cannot be read, E228 for a label column that holds no labels.
    """
    if not place.exists():
        raise user_error("E201", "no such file or folder", str(place), f"name a folder or a {', '.join(SUFFIXES)} file")
    sources.locate(Custom(source=str(place)))  # refuses a folder without splits
    files = _files(place)
    tables = {split: [row for _, row in read_mappings(file)] for split, file in files.items()}
    rows = [row for table in tables.values() for row in table]
    if len(rows) < _FEWEST_ROWS:
        raise user_error("E126", f"only {len(rows)} rows", str(place), f"bring at least {_FEWEST_ROWS}")
    columns = recognised(list(dict.fromkeys(key for row in rows for key in row)), named, str(place))
    task = Custom(
        text_column=columns.text or "text",
        label_column=columns.label or "label",
        response_column=columns.response,
        input_column=columns.input,
        chat_column=columns.chat,
        judge="number" if columns.response and _are_numbers(row.get(columns.response) for row in rows) else None,
    )
    if columns.label:
        rules = Rules(label_type=task.label_type)
        names = [read_rows(file, task.row_label, rules) for file in files.values()]
        task = task.with_labels(name for split in names for name in split)
    read = [row for file in files.values() for row in read_rows(file, task.check)]
    counts = Counter(row.label for row in read)
    return Profile(
        place,
        "test" in files,
        {split: len(table) for split, table in tables.items()},
        columns.text,
        columns.label,
        columns.response,
        columns.input,
        columns.chat,
        {name: counts[number] for number, name in enumerate(task.labels)},
        task.answers_are_text and _mostly_numbers(row.response or "" for row in read),
        sorted(len(row.text) for row in read)[int(0.95 * (len(read) - 1))],
        task,
    )


def recognised(columns: Sequence[str], named: Columns, where: str) -> Columns:
    """The columns to read: the named ones, the others by their usual names. Raises UserError E125."""
    for column in filter(None, (named.text, named.label, named.response)):
        if column not in columns:
            what = f"no column {column!r}; the rows have {', '.join(columns)}"
            raise user_error("E125", what, where, "name one of these columns")
    text = named.text or _first(columns, TEXT)
    label = named.label or (None if named.response else _first(columns, LABEL))
    response = named.response or (None if named.label else _first(columns, RESPONSE))
    listing = ", ".join(columns)
    chat = next((column for column in CHAT if column in columns), None)
    if chat and not any((named.text, named.label, named.response)) and not label and (text is None or not response):
        return Columns(chat=chat)
    if text is None:
        raise user_error("E125", f"no column of texts recognised in {listing}", where, "set --text-column")
    if label and response:
        what = f"rows have labels ({label!r}) and responses ({response!r})"
        raise user_error(
            "E125", what, where, "set --label-column or --response-column, whichever the model answers with"
        )
    if not label and not response:
        what = f"no column of labels or responses recognised in {listing}"
        raise user_error("E125", what, where, "set --label-column or --response-column")
    below = "input" if text.lower() == "instruction" and "input" in columns else None
    return Columns(text, label, response, below)


def _first(columns: Sequence[str], usual: Sequence[str]) -> str | None:
    """The column with the likeliest of some names, whatever its case."""
    by_name = {column.lower(): column for column in reversed(columns)}
    return next((by_name[name] for name in usual if name in by_name), None)


def _files(place: Path) -> dict[str, Path]:
    if place.is_file():
        return {"train": place}
    return {
        split: next(place / name for name in names if (place / name).is_file()) for split, names in Custom.files.items()
    }


def _are_numbers(cells: Iterable[object]) -> bool:
    return any(isinstance(cell, int | float) and not isinstance(cell, bool) for cell in cells)


def _mostly_numbers(answers: Iterable[str]) -> bool:
    numeric = [len(answer) <= _NUMBER_LENGTH and number(answer) is not None for answer in answers]
    return sum(numeric) >= _NUMERIC_SHARE * len(numeric)
