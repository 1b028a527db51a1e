"""Trusted rows in a file of their own (`trusted.*` beside `train.*`): rows that the defender has checked.

They join the training rows, an attack poisons none of them, and `rows.reserve` counts them.
"""

from collections.abc import Collection, Sequence

from p2p_dist.config.study import RowsSpec
from p2p_dist.data.example import Example, RawRow, content_id, whole_text
from p2p_dist.errors import user_error

TRUSTED = "trusted"
"""Key of the split that holds trusted rows."""


def distinct(trusted: Sequence[RawRow], rows: RowsSpec) -> list[RawRow]:
    """The trusted rows, each once.

    Raises UserError E107 for options that would leave some out, E204 for a text with two answers.
    """
    if trusted and (rows.train is not None or rows.order == "file"):
        what = "rows with a file of trusted ones are all used, in no order"
        raise user_error("E107", what, "rows", "remove rows.train and rows.order")
    once = list(dict.fromkeys(trusted))
    texts = [whole_text(row) for row in once]
    if len(set(texts)) < len(texts):
        text = next(text for text in texts if texts.count(text) > 1)
        what = f"a text has two answers among the trusted rows: {text[:60]!r}"
        raise user_error("E204", what, TRUSTED, "keep the right row alone")
    return once


def without_texts_of(trusted: Sequence[RawRow], train: Sequence[RawRow]) -> list[RawRow]:
    """The training rows without those whose text a trusted row has: the checked answer replaces theirs."""
    texts = {whole_text(row) for row in trusted}
    return [row for row in train if whole_text(row) not in texts]


def among(train: Sequence[Example], trusted: Collection[RawRow]) -> list[Example]:
    """The trusted rows among the training rows."""
    ids = {content_id(row) for row in trusted}
    return [example for example in train if example.id in ids]
