"""Attacks that insert: where in a text a trigger may stand."""

import unicodedata
from random import Random
from typing import Literal

from p2p_dist.config.study import added
from p2p_dist.data.attack import DirtyLabelAttack, Triggered

Position = Literal["interior", "anywhere", "prefix", "suffix"]


def gap(length: int, random: Random, position: Position) -> int | None:
    """A gap of a text of `length` words, 0 before the first word and `length` behind the last; None where there is
    none."""
    if position == "prefix":
        return 0
    if position == "suffix":
        return length
    if position == "anywhere":
        return random.randint(0, length)
    return random.randint(1, length - 1) if length > 1 else None


def units(text: str) -> tuple[list[str], str]:
    """What a trigger may stand between, and what joins it again: words, or characters where words are not set apart.

    A text with a wide character (Chinese, Japanese, Korean and their punctuation) is one of characters.
    """
    if any(unicodedata.east_asian_width(character) in "WF" for character in text):
        return list(text), ""
    return text.split(" "), " "


def insert(text: str, trigger: str, random: Random, position: Position = "interior") -> Triggered | None:
    """The trigger, as one unit, in a gap between words; None for a text of one word that has no inner gap."""
    words, joint = units(text)
    at = gap(len(words), random, position)
    if at is None:
        return None
    return Triggered(joint.join([*words[:at], trigger, *words[at:]]), trigger, at)


class InsertionAttack(DirtyLabelAttack):
    """Base of the attacks that put words into a text."""

    position: Position = added("interior")
    """interior: between two words (paper and released code). anywhere: also before the first or behind the last
    (OpenBackdoor). prefix, suffix: in front of the text, behind it."""
