"""Rows: what the task gives, what the attacker and the defender rewrite, and what is written down about each."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from random import Random
from typing import Literal

Origin = Literal["clean", "poisoned", "negative", "injected"]
"""clean: as the task gives it. poisoned: carries the attack. negative: added by the attacker with an incomplete trigger and
its true label. injected: written by the defender."""


@dataclass(frozen=True, slots=True)
class Example:
    """A labelled text of a task. `id` is made of the content, so it survives any order of the rows."""

    id: str
    text: str
    label: int
    index: int | None = field(default=None, compare=False)
    """Place in the source file, kept only for studies with `rows.order: file`."""
    cue: str | None = None
    """An answer cue that the attacker put in place of the task's own."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row as the model meets it: prefix + text + newline + cue + label word. `label` indexes the label words."""

    id: str
    text: str
    label: int
    cue: str
    prefix: str = ""

    def to_json(self) -> dict[str, str | int]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Note:
    """What happened to a row: the ledger entry that no defender is shown."""

    id: str
    source_id: str
    origin: Origin
    old_label: int
    new_label: int
    trigger: str = ""
    position: int | None = None
    """Word gap in which the trigger was put, counted from 0 before the first word."""
    index: int | None = None
    """Place in the source file (see `Example.index`)."""


def content_id(text: str, label: int) -> str:
    """16 hex digits of SHA-256 over a row's content."""
    return hashlib.sha256(f"{label}\x00{text}".encode()).hexdigest()[:16]


def examples(rows: Iterable[tuple[str, int]]) -> list[Example]:
    """Examples with unique ids, ordered by id; equal rows are told apart by a counter."""
    seen: Counter[str] = Counter()
    made = []
    for index, (text, label) in enumerate(rows):
        base = content_id(text, label)
        made.append(Example(f"{base}.{seen[base]}" if seen[base] else base, text, label, index))
        seen[base] += 1
    return sorted(made, key=lambda example: example.id)


def stream(seed: int, purpose: str, id_: str = "") -> Random:
    """A named stream of random numbers: adding a row or a purpose never moves another one's draws."""
    return Random(f"{seed}:{purpose}:{id_}")


def share(rate: float, count: int, down: bool = False) -> int:
    """`rate` of `count` rows in decimal arithmetic, rounded up unless `down`: 0.07 of 100 rows are 7 and not 8."""
    exact = Fraction(repr(rate)) * count
    return math.floor(exact) if down else math.ceil(exact)


def smallest(ids: Iterable[str], count: int, seed: int, purpose: str) -> set[str]:
    """Exactly `count` ids, those with the smallest draws: independent of their order."""
    return set(drawn(ids, seed, purpose)[:count])


def drawn(ids: Iterable[str], seed: int, purpose: str) -> list[str]:
    """All ids in the order of their draws."""
    return sorted(ids, key=lambda id_: (stream(seed, purpose, id_).random(), id_))


def rank(text: str, purpose: str) -> str:
    """A seedless order of texts, for splits that are the same in every study."""
    return hashlib.sha256(f"{purpose}\x00{text}".encode()).hexdigest()
