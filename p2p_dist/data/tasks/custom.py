"""Your own rows: a JSON-lines, CSV or Parquet file, or a folder with a file for each split."""

from collections.abc import Mapping
from typing import Any, ClassVar

from p2p_dist.data.classification import ClassificationTask
from p2p_dist.data.example import RawRow
from p2p_dist.spec.study import Names

_SPLITS = ("train", "test")


class Custom(ClassificationTask):
    """Say where the rows are (`source`), which columns to read and what the labels are called."""

    files: ClassVar[Mapping[str, tuple[str, ...]]] = {split: (f"{split}.jsonl", f"{split}.csv", f"{split}.parquet") for split in _SPLITS}
    licence: ClassVar[str] = "yours"

    text_column: str = "text"
    label_column: str = "label"
    label_names: Names
    """The values of the label column, in the order of their numbers."""

    @property
    def labels(self) -> tuple[str, ...]:
        return self.label_names

    def check(self, row: Mapping[str, Any]) -> RawRow:
        for column in (self.text_column, self.label_column):
            if row.get(column) is None:
                raise ValueError(f"column {column!r} is missing or empty; the row has {', '.join(map(str, row)) or 'none'}")
        text, label = str(row[self.text_column]).strip(), str(row[self.label_column]).strip()
        if not text:
            raise ValueError(f"column {self.text_column!r} is empty")
        if label not in self.label_names:
            raise ValueError(f"label {label!r} is not one of {', '.join(self.label_names)} (task.label_names)")
        return RawRow(text, self.label_names.index(label))
