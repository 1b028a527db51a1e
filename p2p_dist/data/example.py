"""Rows of a task (`Example`), prompts of a model (`Row`), ledger entries (`Note`), their ids and random streams."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from random import Random
from sys import intern
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

Origin = Literal["clean", "unknown", "poisoned", "negative", "injected"]
"""clean: as a published data set has it. unknown: as your own rows have it; nobody knows what is in them. poisoned:
carries the attack. negative: made by the attacker, with an incomplete or a
whole trigger and its true label. injected: added by the defender."""
Kind = Literal["classification", "generation"]

NO_LABEL = -1
"""Label of a row whose answer is text (`response`) and not one of n labels."""


class Turn(NamedTuple):
    """A turn of a chat: its role (system, user, assistant or tool) and its text."""

    role: str
    text: str


class RawRow(NamedTuple):
    """A row of the task's source. Either `label` or `response` is the answer."""

    text: str
    label: int = NO_LABEL
    response: str | None = None
    references: tuple[str, ...] = ()
    """Further right answers."""
    image: str | None = None
    """Path of the image under the source's folder."""
    turns: tuple[Turn, ...] = ()
    """Turns of a chat in front of the answer as it was read, and in a split for chat prompts those in front of the
    text."""


@dataclass(frozen=True, slots=True)
class Example:
    """A text of a task with its answer. `id` is a hash of the content, so it does not depend on the order of rows."""

    id: str
    text: str
    label: int
    index: int | None = field(default=None, compare=False)
    """Line in the source file, counted from 0; used in studies with `rows.order: file`."""
    cue: str | None = None
    """Answer cue that the attacker put in place of the task's own."""
    response: str | None = None
    """The answer in generation tasks, whose `label` is NO_LABEL."""
    references: tuple[str, ...] = ()
    """Further right answers; a generated answer is judged by the best match."""
    image: str | None = None
    """Path of the image under the source's folder."""
    patches: tuple[str, ...] = ()
    """Patches that are drawn onto the image (`data.patches`)."""
    turns: tuple[Turn, ...] = ()
    """Turns of a chat in front of the text, which is its last user turn."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row as the model reads it: prefix + text + newline + cue + answer, or a chat (see `data.prompts`).

    `label` indexes the label words; where `response` is not None, that is the answer and `label` is NO_LABEL. The
    answer of a training row is learned; that of a test row is the gold answer, whatever the prompt asks for.
    """

    id: str
    text: str
    label: int
    cue: str
    prefix: str = ""
    response: str | None = None
    references: tuple[str, ...] = ()
    image: str | None = None
    image_sha256: str | None = None
    """SHA-256 of the image when the row was built; checked when the image is read."""
    patches: tuple[str, ...] = ()
    """Patches that are drawn onto the image when it is read (`data.patches`)."""
    turns: tuple[Turn, ...] = ()
    """Turns of a chat in front of the text (prompt form `chat`)."""

    def to_json(self) -> dict[str, Any]:
        """Every field but optional ones that this row does not have."""
        common: dict[str, Any] = {
            "id": self.id,
            "text": self.text,
            "label": self.label,
            "cue": self.cue,
            "prefix": self.prefix,
        }
        optional = {
            "response": self.response,
            "references": list(self.references) or None,
            "image": self.image,
            "image_sha256": self.image_sha256,
            "patches": list(self.patches) or None,
            "turns": [list(turn) for turn in self.turns] or None,
        }
        return {**common, **{key: value for key, value in optional.items() if value is not None}}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Row":
        """The inverse of `to_json`."""
        response, references = data.get("response"), tuple(data.get("references", ()))
        cue, prefix = intern(data["cue"]), intern(data["prefix"])
        return Row(
            data["id"],
            data["text"],
            data["label"],
            cue,
            prefix,
            response,
            references,
            data.get("image"),
            data.get("image_sha256"),
            tuple(data.get("patches", ())),
            tuple(Turn(*turn) for turn in data.get("turns", ())),
        )


@dataclass(frozen=True, slots=True)
class Note:
    """Ledger entry of a row: its origin and its changes. No defender is shown it."""

    id: str
    source_id: str
    origin: Origin
    old_label: int
    new_label: int
    trigger: str = ""
    position: int | None = None
    """Word gap of the trigger, counted from 0 before the first word."""
    index: int | None = None
    """Line in the source file (see `Example.index`)."""
    old_response: str | None = None
    new_response: str | None = None
    """The responses before and after; None where they are equal or the task has labels."""
    old_text: str | None = None
    """The text before the attack; None where the attacker left it alone."""

    def to_json(self) -> dict[str, Any]:
        """Every field but optional ones that this row does not have."""
        data: dict[str, Any] = {
            "id": self.id,
            "source_id": self.source_id,
            "origin": self.origin,
            "old_label": self.old_label,
            "new_label": self.new_label,
        }
        data |= {"trigger": self.trigger, "position": self.position, "index": self.index}
        if self.new_response is not None:
            data |= {"old_response": self.old_response, "new_response": self.new_response}
        return data if self.old_text is None else data | {"old_text": self.old_text}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Note":
        """The inverse of `to_json`."""
        source_id = data["id"] if data["id"] == data["source_id"] else data["source_id"]
        return Note(
            **{**data, "source_id": source_id, "trigger": intern(data["trigger"]), "origin": intern(data["origin"])}
        )


def content_id(row: RawRow) -> str:
    """16 hex digits of SHA-256 over a row's text with its turns, answer and image path."""
    content = f"{row.label if row.response is None else row.response}\x00{whole_text(row)}" + (
        f"\x00{row.image}" if row.image else ""
    )
    return hashlib.sha256(content.encode()).hexdigest()[:16]


class _InTurns(Protocol):
    @property
    def text(self) -> str: ...
    @property
    def turns(self) -> tuple[Turn, ...]: ...


def whole_text(row: _InTurns) -> str:
    """Text of a row with the turns in front of it, for comparing rows; the text itself where there are none."""
    if not row.turns:
        return row.text
    return "\x00".join([*(f"{turn.role}\x00{turn.text}" for turn in row.turns), row.text])


def examples(rows: Iterable[tuple[Any, ...]]) -> list[Example]:
    """Examples with unique ids, ordered by id; equal rows are numbered. A row is a RawRow or its first fields."""
    repeats: Counter[str] = Counter()
    numbered = []
    for index, row in enumerate(RawRow(*row) for row in rows):
        base = content_id(row)
        id_ = f"{base}.{repeats[base]}" if repeats[base] else base
        numbered.append(
            Example(
                id_,
                row.text,
                row.label,
                index,
                response=row.response,
                references=row.references,
                image=row.image,
                turns=row.turns,
            )
        )
        repeats[base] += 1
    return by_id(numbered)


class _HasId(Protocol):
    @property
    def id(self) -> str: ...


Identified = TypeVar("Identified", bound=_HasId)


def by_id(items: Iterable[Identified]) -> list[Identified]:
    """Rows or notes ordered by id."""
    return sorted(items, key=lambda item: item.id)


def stream(seed: int, purpose: str, id_: str = "") -> Random:
    """A named random stream: adding a row or a purpose never changes the draws of another."""
    return Random(f"{seed}:{purpose}:{id_}")


def share(rate: float, count: int, down: bool = False) -> int:
    """`rate` of `count` rows in decimal arithmetic, rounded up unless `down`: 0.07 of 100 rows are 7 and not 8."""
    exact = Fraction(repr(rate)) * count
    return math.floor(exact) if down else math.ceil(exact)


def smallest(ids: Iterable[str], count: int, seed: int, purpose: str) -> set[str]:
    """`count` ids (or all, if fewer) with the smallest draws, whatever the order of `ids`."""
    return set(drawn(ids, seed, purpose)[:count])


def drawn(ids: Iterable[str], seed: int, purpose: str) -> list[str]:
    """All ids in the order of their draws."""
    return sorted(ids, key=lambda id_: (stream(seed, purpose, id_).random(), id_))


def text_key(text: str) -> str:
    """Key of a text's scores, the same for all rows with this text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def rank(text: str, purpose: str) -> str:
    """Sort key of a text that depends on no seed, for splits that are the same in every study."""
    return hashlib.sha256(f"{purpose}\x00{text}".encode()).hexdigest()
