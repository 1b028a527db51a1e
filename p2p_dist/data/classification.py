"""Base of the tasks with one of n labels as answer: class names and label words."""

import re
import unicodedata
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from p2p_dist.config.study import Names
from p2p_dist.data import cells
from p2p_dist.data.example import RawRow
from p2p_dist.data.task import Task
from p2p_dist.errors import user_error


class ClassificationTask(Task):
    """Base of the classification tasks in `tasks/`. Local rows have the keys text and label."""

    class_names: ClassVar[tuple[str, ...]] = ()
    """Class names; the position is the label."""
    own_words: ClassVar[tuple[str, ...]] = ()
    """Words for the verbalizer `words`: one for each class, then one for each label that P2P adds, in the same
    order."""
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)

    verbalizer: Literal["numeric", "letters", "words"] = "numeric"
    """Label words: numbers from 0, letters from A, or words such as negative, positive, bad, good (paper, table 7).
    Letters are one token each beyond ten labels too."""
    label_words: Names | None = None
    """Label words in place of a verbalizer's: one for each class, then one for each label that P2P adds."""

    @property
    def labels(self) -> tuple[str, ...]:
        return self.class_names

    def check(self, row: Mapping[str, Any]) -> RawRow:
        text = cells.text(row, "text")
        label, _ = cells.label(row, "label")
        number = int(label) if re.fullmatch("[0-9]{1,4}", label) else -1
        if not 0 <= number < len(self.labels):
            shown = cells.described(row["label"])
            raise ValueError(f"column 'label' is {shown}, not one of the {len(self.labels)} classes from 0")
        return RawRow(text, number)

    def words(self, count: int) -> list[str]:
        """The words of labels 0..count-1, all different.

        Raises UserError E220 when there are fewer words, E221 when letters run out, E222 when
        two words are the same but for width and spaces, or a word is empty.
        """
        if self.label_words is None and self.verbalizer == "numeric":
            return [str(label) for label in range(count)]
        if self.label_words is None and self.verbalizer == "letters":
            if count > 26:
                what = f"{count} labels (with those that P2P adds) are more than the letters A to Z"
                raise user_error("E221", what, "task.verbalizer", "set verbalizer: numeric, or label_words")
            return [chr(ord("A") + label) for label in range(count)]
        words = self.label_words or self.own_words
        if len(words) < count:
            what = f"{count} labels need {count} words, the task has {len(words)}: {', '.join(words) or 'none'}"
            fix = "set label_words to the words of the classes, then as many for P2P, or set verbalizer: letters"
            raise user_error("E220", what, "task.label_words", fix)
        by_spelling: dict[str, str] = {}
        for word in words[:count]:
            spelling = " ".join(unicodedata.normalize("NFKC", word).split())
            if not spelling or spelling in by_spelling:
                other = f"the same word: {by_spelling[spelling]!r} and {word!r}" if spelling else f"no word: {word!r}"
                what = f"labels have {other} (of {', '.join(words[:count])})"
                raise user_error("E222", what, "task.label_words", "give each label its own word")
            by_spelling[spelling] = word
        return list(words[:count])
