"""Short names of attacks and defenses in pictures, folded into lines that leave room for the picture."""

import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence

from p2p_dist.report.plots.style import title_of

LETTERS = 38
"""Letters of a line beside a picture of paper width."""
_LINE = 0.135
"""Inches from one line of a folded name to the next."""


def brief(label: str) -> str:
    """A label without what a reader can guess: a word stands for itself, and a number has the last part of its option's
    name before it. `p2p(benign_source=screened, screening.rounds=2)` is `P2P (screened, rounds 2)`."""
    name, _, inside = label.partition("(")
    options = [part.partition("=") for part in re.split(r", (?=[\w.]+=)", inside.removesuffix(")")) if part]
    words = [value for _, _, value in options if _is_word(value)]
    numbers = [f"{key.rpartition('.')[2]} {value.strip()}" for key, _, value in options if not _is_word(value)]
    return title_of(name) + (f" ({', '.join([*words, *numbers])})" if options else "")


def briefs(labels: Iterable[str]) -> dict[str, str]:
    """In brief, but for those of which two would read the same."""
    names = {label: brief(label) for label in labels}
    many = Counter(names.values())
    return {label: short if many[short] == 1 else title_of(label) for label, short in names.items()}


def _is_word(value: str) -> bool:
    return value.isidentifier() and value not in ("True", "False", "None")


def folded(text: str, letters: int = LETTERS) -> str:
    """In lines of at most so many letters."""
    return "\n".join(textwrap.wrap(text, letters))


def pitch(names: Sequence[str], least: float) -> float:
    """Inches from one name of a list to the next, so that the most folded one has room; at least `least`."""
    return max(least, 0.06 + _LINE * max(name.count("\n") + 1 for name in names))
