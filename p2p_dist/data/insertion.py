"""Base of the attacks that insert words: positions of a trigger in a text."""

import unicodedata
from random import Random
from typing import Literal

from p2p_dist.config.study import added
from p2p_dist.data.attack import DirtyLabelAttack, Triggered

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
