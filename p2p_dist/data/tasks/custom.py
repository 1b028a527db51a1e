"""Your own rows: a JSON-lines, CSV or Parquet file, a folder with a file for each split, or a data set on the hub.

A row, and its prompt with the answer (`label_names: [delivery, payment]`):

    {"text": "my parcel is late", "label": "delivery"}

    my parcel is late
    Output: 0
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from p2p_dist.config.study import Names, added
from p2p_dist.data.answer_parsing import ResponseSpace
from p2p_dist.data.classification import ClassificationTask
from p2p_dist.data.example import RawRow
from p2p_dist.data.task import HubSource
from p2p_dist.errors import user_error

_SPLITS = ("train", "test")
_MAX_CLASSES = 200


class Custom(ClassificationTask):
    """Rows from `source`, or from `dataset` at `revision`, with a text column and a column of labels or responses."""

    files: ClassVar[Mapping[str, tuple[str, ...]]] = {
        split: (f"{split}.jsonl", f"{split}.csv", f"{split}.parquet") for split in _SPLITS
    }
    licence: ClassVar[str] = "yours"
    names_labels: ClassVar[bool] = True

    text_column: str = "text"
    label_column: str = "label"
    label_names: Names | None = None
    """Values of the label column, in the order of their numbers; null: all values in the rows, sorted."""
    response_column: str | None = None
    """Column of the answer, for text answers; null: rows have labels."""
    judge: Literal["number", "rouge"] | None = None
    """Metric of generated answers: number compares their numbers; rouge (also null) computes ROUGE."""
    characters: bool = added(False)
    """Compute ROUGE over characters and not words, for languages without spaces between words."""
    max_new_tokens: Annotated[int, Field(ge=1)] = added(64)
    """Tokens after which generation stops in evaluation."""
    dataset: Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")] | None = None
    """Data set on the hub, such as `org/name`; `revision` is its commit."""
    config: str | None = None
    """Configuration of that data set, where it has several."""
    train_split: str = added("train")
    test_split: str = added("test")
    """Splits of that data set; with an empty test_split, test rows are taken from the training split by content."""

    @model_validator(mode="after")
    def _fits(self) -> "Custom":
        if self.response_column is None and (self.judge or self.characters):
            raise ValueError("judge and characters are for rows with a response_column")
        if self.source == "embedded":
            raise ValueError("custom has no embedded rows")
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        return () if self.response_column else self.label_names or ()

    @property
    def responses(self) -> ResponseSpace | None:
        return (
            ResponseSpace(self.judge or "rouge", self.max_new_tokens, self.characters) if self.response_column else None
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
        return self.response_column is None and self.label_names is None

    def with_labels(self, rows: Iterable[Mapping[str, Any]]) -> "Custom":
        """The task with the labels of its rows, sorted by value when all are whole numbers, else by name.

        Raises UserError E228 for fewer than 2 or more than 200 different values, which are hardly labels.
        """
        labels = {str(row[self.label_column]).strip() for row in rows if row.get(self.label_column) is not None}
        where, fix = (
            f"column {self.label_column!r}",
            "set task.label_column, or task.label_names to the labels in order",
        )
        if len(labels) < 2:
            what = f"{len(labels)} different labels: {', '.join(labels) or 'the column is missing or empty'}"
            raise user_error("E228", what, where, fix)
        if len(labels) > _MAX_CLASSES:
            what = f"{len(labels)} different values, such as {', '.join(sorted(labels)[:3])}"
            raise user_error("E228", what, where, fix)
        numeric = all(label.lstrip("-").isdigit() for label in labels)
        return self.model_copy(update={"label_names": tuple(sorted(labels, key=int if numeric else None))})

    def from_hub(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        return row

    def check(self, row: Mapping[str, Any]) -> RawRow:
        answer_column = self.response_column or self.label_column
        for column in (self.text_column, answer_column):
            if row.get(column) is None:
                raise ValueError(
                    f"column {column!r} is missing or empty; the row has {', '.join(map(str, row)) or 'none'}"
                )
        text, answer = str(row[self.text_column]).strip(), str(row[answer_column]).strip()
        for column, value in ((self.text_column, text), (answer_column, answer)):
            if not value:
                raise ValueError(f"column {column!r} is empty")
        if self.response_column:
            return RawRow(text, response=answer)
        if answer not in self.labels:
            raise ValueError(f"label {answer!r} is not one of {', '.join(self.labels)} (task.label_names)")
        return RawRow(text, self.labels.index(answer))
