"""Trusted rows in a file of their own: they are trained on, reserved, and replace rows with their text."""

import json
from pathlib import Path

import pytest

from p2p_dist.config.study import RowsSpec
from p2p_dist.data import sources
from p2p_dist.data.task import Split
from p2p_dist.data.tasks.custom import Custom
from p2p_dist.errors import UserError

TASK = Custom(label_names=("a", "b"))
ROWS = [(f"text {number}", "ab"[number % 2]) for number in range(20)]


def write(folder: Path, **splits: list[tuple[str, str]]) -> Custom:
    for split, rows in splits.items():
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return TASK.model_copy(update={"source": str(folder)})


def split(task: Custom, rows: RowsSpec) -> Split:
    return task.split(sources.read(task, sources.locate(task)), rows)


def test_trusted_rows_are_reserved_and_replace_their_texts(tmp_path: Path) -> None:
    """Text 3 has the wrong label in the training file; text 4 is a test row by chance no more."""
    checked = [("text 3", "a"), ("text 4", "a"), ("new", "b")]
    task = write(tmp_path, train=ROWS, trusted=checked)
    parts = split(task, RowsSpec(test=6, reserve=3, balanced=False))
    by_text = {row.text: row for row in parts.train}
    assert {row.text for row in parts.train if row.id in parts.reserve} == {text for text, _ in checked}
    assert (by_text["text 3"].label, len(by_text), len(parts.train)) == (0, 15, 15)
    assert not {row.text for row in parts.test} & set(by_text)
    assert parts.dropped["text_of_a_trusted_row"] == 2


def test_trusted_rows_change_the_digest(tmp_path: Path) -> None:
    """A file of trusted rows is not a test file with the same content."""
    task = write(tmp_path, train=ROWS, test=ROWS[:2])
    before = sources.locate(task).digest
    (tmp_path / "test.jsonl").rename(tmp_path / "trusted.jsonl")
    assert sources.locate(task).digest != before


def test_trusted_rows_that_cannot_all_be_used_are_refused(tmp_path: Path) -> None:
    task = write(tmp_path, train=ROWS, test=ROWS[:2], trusted=[("x", "a"), ("x", "b")])
    with pytest.raises(UserError, match=r"E204.*two answers"):
        split(task, RowsSpec(reserve=1))
    for rows in (RowsSpec(train=4), RowsSpec(order="file")):
        with pytest.raises(UserError, match="E107"):
            split(task, rows)
