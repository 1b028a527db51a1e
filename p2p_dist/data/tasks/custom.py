"""Your own rows: a file (JSON lines, a JSON array, CSV, TSV, Parquet, Arrow), a folder with a file for each split, or a
data set on the hub. Rows have a text and a label, a text and a response, or a chat whose last answer is learned.

A row, and its prompt with the answer (`label_names: [delivery, payment]`):

    {"text": "my parcel is late", "label": "delivery"}

    my parcel is late
    Output: 0
"""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from p2p_dist.config.study import Names, added
from p2p_dist.data import cells, chats
from p2p_dist.data.answer_parsing import ResponseSpace, normal
from p2p_dist.data.cells import LabelType
from p2p_dist.data.classification import ClassificationTask
from p2p_dist.data.example import RawRow
from p2p_dist.data.images import relative_path
from p2p_dist.data.row_files import FILE_SUFFIXES
from p2p_dist.data.task import HubSource
from p2p_dist.data.trusted_rows import TRUSTED
from p2p_dist.errors import user_error

_SPLITS = ("train", "test")
_MAX_CLASSES = 200


class Custom(ClassificationTask):
    """Rows from `source`, or from `dataset` at `revision`, with a text column and a column of labels or responses."""

    files: ClassVar[Mapping[str, tuple[str, ...]]] = {
        split: tuple(f"{split}{suffix}" for suffix in FILE_SUFFIXES) for split in _SPLITS
    }
    trusted_files: ClassVar[tuple[str, ...]] = tuple(f"{TRUSTED}{suffix}" for suffix in FILE_SUFFIXES)
    licence: ClassVar[str] = "yours"
    names_labels: ClassVar[bool] = True

    origins_known: ClassVar[bool] = False

    text_column: str = "text"
    """Column of the text, or a path into nested columns: meta.text."""
    label_column: str = "label"
    label_names: Names | None = None
    """Values of the label column, in the order of their numbers; null: all values in the rows, sorted."""
    response_column: str | None = None
    """Column of the answer, for text answers; null: rows have labels."""
    input_column: str | None = None
    """Column that is put below the text where it is not empty: `input` of rows with instruction, input and output."""
    chat_column: str | None = None
    """Column of a list of turns (messages, conversations): the last answer is learned, and the turns before it are the
    text. null: text and answer have columns of their own."""
    judge: Literal["number", "rouge"] | None = None
    """Metric of generated answers: number compares their numbers; rouge (also null) computes ROUGE."""
    characters: bool = added(False)
    """Compute ROUGE over characters and not words, for languages without spaces between words."""
    max_new_tokens: Annotated[int, Field(ge=1)] = added(64)
    """Tokens after which generation stops in evaluation."""
    image_column: str | None = added(None)
    """Column of the path of a row's image under the folder of its file, for models that read images; null: rows have
    none."""
    dataset: Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")] | None = None
    """Data set on the hub, such as `org/name`; `revision` is its commit."""
    config: str | None = None
    """Configuration of that data set, where it has several."""
    train_split: str = added("train")
    test_split: str = added("test")
    """Splits of that data set; with an empty test_split, test rows are taken from the training split by content."""

    @model_validator(mode="after")
    def _fits(self) -> "Custom":
        if not self.answers_are_text and (self.judge or self.characters):
            raise ValueError("judge and characters are for rows with a response_column or a chat_column")
        if self.image_column and (self.dataset or self.chat_column):
            raise ValueError("image_column is for rows in files with columns of text and answer: remove it")
        if self.chat_column and (self.response_column or self.input_column):
            raise ValueError("a chat has its own text and answer: remove response_column and input_column")
        if len(set(self.label_names or ())) < len(self.label_names or ()):
            raise ValueError("label_names has a label twice")
        if self.source == "embedded":
            raise ValueError("custom has no embedded rows")
        return self

    @property
    def answers_are_text(self) -> bool:
        """True if answers are text and not labels."""
        return bool(self.response_column or self.chat_column)

    @property
    def labels(self) -> tuple[str, ...]:
        return () if self.answers_are_text else self.label_names or ()

    @property
    def responses(self) -> ResponseSpace | None:
        return (
            ResponseSpace(self.judge or "rouge", self.max_new_tokens, self.characters)
            if self.answers_are_text
            else None
        )

    @property
    def hub_source(self) -> HubSource | None:
        if self.dataset is None:
            return None
        splits = {"train": self.train_split, **({"test": self.test_split} if self.test_split else {})}
        return HubSource(self.dataset, self.revision, {}, splits, self.config)

    @property
    def on_hub(self) -> bool:
        return self.dataset is not None

    @property
    def unknown_labels(self) -> bool:
        return not self.answers_are_text and self.label_names is None

    def row_label(self, row: Mapping[str, Any]) -> str:
        self._text(row)
        return cells.label(row, self.label_column)[0]

    def label_type(self, row: Mapping[str, Any]) -> LabelType | None:
        return None if self.answers_are_text else cells.label(row, self.label_column)[1]

    def with_labels(self, labels: Iterable[str]) -> "Custom":
        """The task with the labels of its rows, sorted by value when all are whole numbers, else by name.

        Raises UserError E228 for fewer than 2 or more than 200 different values, which are hardly labels, and for two
        that differ in case, width or spaces alone.
        """
        names = set(labels)
        where, fix = (
            f"column {self.label_column!r}",
            "set task.label_column, or task.label_names to the labels in order",
        )
        if len(names) < 2:
            raise user_error("E228", f"{len(names)} different labels: {', '.join(names) or 'none'}", where, fix)
        if len(names) > _MAX_CLASSES:
            what = f"{len(names)} different values, such as {', '.join(sorted(names)[:3])}"
            raise user_error("E228", what, where, fix)
        by_spelling: dict[str, str] = {}
        for name in sorted(names):
            if (other := by_spelling.setdefault(normal(name), name)) != name:
                what = f"the labels {other!r} and {name!r} differ in case, width or spaces alone"
                raise user_error("E228", what, where, "correct the rows, or set task.label_names to keep both")
        if all(re.fullmatch("-?[0-9]{1,18}", name) for name in names):
            ordered = sorted(names, key=lambda name: (int(name), name))
        else:
            ordered = sorted(names)
        return self.model_copy(update={"label_names": tuple(ordered)})

    def from_hub(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        return row

    @property
    def reads_images(self) -> bool:
        return self.image_column is not None

    def check(self, row: Mapping[str, Any]) -> RawRow:
        raw = self._text_and_answer(row)
        return raw._replace(image=relative_path(row, self.image_column)) if self.image_column else raw

    def _text_and_answer(self, row: Mapping[str, Any]) -> RawRow:
        if self.chat_column:
            return chats.raw_row(row, self.chat_column)
        text = self._text(row)
        if self.response_column:
            return RawRow(text, response=cells.response(row, self.response_column, numbers=self.judge == "number"))
        label, _ = cells.label(row, self.label_column)
        if label not in self.labels:
            raise ValueError(f"label {label!a} is not one of {', '.join(self.labels)} (task.label_names)")
        return RawRow(text, self.labels.index(label))

    def _text(self, row: Mapping[str, Any]) -> str:
        text = cells.text(row, self.text_column)
        if self.input_column is None or cells.is_blank(row, self.input_column):
            return text
        return chats.with_input(text, cells.text(row, self.input_column))
