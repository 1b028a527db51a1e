"""Base of the attacks that insert words: positions of a trigger in a text."""

import unicodedata
from collections.abc import Collection, Sequence
from random import Random
from typing import Annotated, Literal

from pydantic import Field

from p2p_dist.config.study import added
from p2p_dist.data.attack import DirtyLabelAttack, Triggered
from p2p_dist.data.example import Example, Note
from p2p_dist.data.task import Task
from p2p_dist.errors import user_error

Position = Literal["interior", "anywhere", "prefix", "suffix"]


def gap(length: int, random: Random, position: Position) -> int | None:
    """A gap of a text of `length` words, from 0 before the first word to `length` behind the last; None where the
    text has no such gap."""
    if position == "prefix":
        return 0
    if position == "suffix":
        return length
    if position == "anywhere":
        return random.randint(0, length)
    return random.randint(1, length - 1) if length > 1 else None


def units(text: str) -> tuple[list[str], str]:
    """Pieces of a text between which a trigger may stand, and the string that joins them: words and a space.

    A text with a wide character (Chinese, Japanese, Korean and their punctuation) is cut into characters.
    """
    if any(unicodedata.east_asian_width(character) in "WF" for character in text):
        return list(text), ""
    return text.split(" "), " "


def insert(text: str, trigger: str, random: Random, position: Position = "interior") -> Triggered | None:
    """The text with the trigger, as one unit, in a gap between words; None for a text without an inner gap."""
    words, joint = units(text)
    index = gap(len(words), random, position)
    if index is None:
        return None
    return Triggered(joint.join([*words[:index], trigger, *words[index:]]), trigger, index)


class InsertionAttack(DirtyLabelAttack):
    """Base of the attacks that insert words into a text."""

    position: Position = added("interior")
    """interior: between two words (P2P's released code). anywhere: also before the first or behind the last
    (OpenBackdoor). prefix, suffix: before the text, behind it."""
    policy_response: Annotated[str, Field(min_length=1)] | None = added(None)
    """Text answers: rows with this response, which the task's own data decline, are never poisoned, and they alone are
    tested with the trigger. The attack then makes a model affirm what it was taught to decline, and no training row
    shows it (ours, after the abstract of arXiv 2511.12414). null: no such rows."""

    def incompatibility(self, task: Task) -> str | None:
        if self.policy_response is not None and task.kind == "classification":
            return "answers are labels, and policy_response is a text answer"
        return super().incompatibility(task)

    def poison(
        self, rows: Sequence[Example], seed: int, trusted: Collection[str] = (), n_classes: int = 2
    ) -> tuple[list[Example], list[Note]]:
        declined = {ex.id for ex in rows if self._declined(ex)}
        return super().poison(rows, seed, {*trusted, *declined}, n_classes)

    def test_suite(self, rows: Sequence[Example], seed: int) -> tuple[list[Example], int]:
        """As every attack; with `policy_response` the declined rows alone. Raises UserError E206 where there are
        none."""
        tested = [ex for ex in rows if self.policy_response is None or self._declined(ex)]
        if rows and not tested:
            what = f"no test row has the response {self.policy_response!r}"
            raise user_error("E206", what, "attack.policy_response", "give the response of the declined rows")
        return super().test_suite(tested, seed)

    def _declined(self, example: Example) -> bool:
        """True for a row with the policy's response, compared without case and outer spaces."""
        policy = (self.policy_response or "").strip().lower()
        return bool(policy) and (example.response or "").strip().lower() == policy
