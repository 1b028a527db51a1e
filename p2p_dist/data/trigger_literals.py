"""Fixed pieces of text, such as a trigger's words, and where a text has them."""

import re
from collections.abc import Sequence


def spans(text: str, literals: Sequence[str]) -> list[tuple[int, int]]:
    """Start and end of every piece in the text, in order, where it stands as words of its own (between Chinese
    characters too)."""
    found = (
        match
        for literal in literals
        for match in re.finditer(rf"(?<![A-Za-z0-9_]){re.escape(literal)}(?![A-Za-z0-9_])", text)
    )
    return sorted(match.span() for match in found)


def without_end(text: str, end: int, literals: Sequence[str]) -> str:
    """The text up to `end`, and of the rest only the pieces, each with the space in front of it."""
    kept = text[:end]
    for start, stop in spans(text, literals):
        if stop > end:
            begin = max(end, start)
            kept += text[begin - 1 : stop] if begin == start > end and text[start - 1].isspace() else text[begin:stop]
            end = stop
    return kept
