"""Positions of fixed pieces of text, such as a trigger's words."""

import re
from collections.abc import Sequence


def spans(text: str, literals: Sequence[str]) -> list[tuple[int, int]]:
    """Start and end of every piece in the text, in order, where it is a whole word or phrase (also between Chinese
    characters)."""
    matches = (
        match
        for literal in literals
        for match in re.finditer(rf"(?<![A-Za-z0-9_]){re.escape(literal)}(?![A-Za-z0-9_])", text)
    )
    return sorted(match.span() for match in matches)


def without_end(text: str, end: int, literals: Sequence[str]) -> str:
    """The text up to `end`, followed by the pieces behind it, each with the space in front of it."""
    shortened = text[:end]
    for start, stop in spans(text, literals):
        if stop > end:
            begin = max(end, start)
            shortened += (
                text[begin - 1 : stop] if begin == start > end and text[start - 1].isspace() else text[begin:stop]
            )
            end = stop
    return shortened
