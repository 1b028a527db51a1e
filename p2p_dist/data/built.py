"""Result of a data stage: rows, test suites, the rules for reading answers, and the ledger."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from p2p_dist.config.study import PLAIN_PROMPT, PromptSpec
from p2p_dist.data.answer_parsing import ResponseSpace
from p2p_dist.data.example import Kind, Note, Row
from p2p_dist.errors import Problem

When = Literal["mixed", "first", "last"]
"""Places of the poisoned rows in the first pass over the training rows."""


HELD_OUT = "held_out"
"""Suite of clean rows on which thresholds are chosen; it is never evaluated."""


@dataclass(frozen=True)
class LabelSpace:
    """Rules for reading label answers: label words, number of classes, first deployed label."""

    words: list[str]
    n_classes: int
    offset: int = 0
    target: int | None = None
    """The attacker's target label; None without an attack."""
    targets: Mapping[str, int] = field(default_factory=dict)
    """Target label of every suite that has its own."""
    names: list[str] = field(default_factory=list)
    """Class names."""
    shift: int = 0
    """Class y is answered as offset + (y + shift) mod n (PDB permutes labels)."""


@dataclass(frozen=True)
class Suite:
    """Test rows; their prompts are answered with the labels offset..offset+n-1."""

    rows: list[Row]
    offset: int
    triggered: bool
    prefix: str = ""
    """Text with which text answers to these prompts begin; stripped before they are judged."""


@dataclass(frozen=True)
class Built:
    """A finished data stage in memory."""

    train: list[Row]
    reserve: list[Row]
    suites: dict[str, Suite]
    labels: LabelSpace
    notes: list[Note]
    counts: dict[str, Any] = field(default_factory=dict)
    responses: ResponseSpace | None = None
    """Rules for reading text answers; None where answers are labels (see `labels`)."""
    triggers: tuple[str, ...] = ()
    """Fixed pieces of text in the attacker's triggers. Hidden from defenders; truncation keeps them."""

    when: When = "mixed"
    """Place of the poisoned rows in training. Hidden from defenders."""

    prompt: PromptSpec = PLAIN_PROMPT
    """Form of the prompts."""

    bad_rows: tuple[Problem, ...] = ()
    """Rows of the source that could not be read and were dropped (`on_bad_row: drop`), with place and reason."""

    image_folder: str = ""
    """Folder of the rows' images on this machine; empty where rows have none."""

    @property
    def turns(self) -> dict[str, int]:
        """Turn in the first pass by row id, for rows that do not stand among all others (0): -1 before, 1 behind."""
        if self.when == "mixed":
            return {}
        turn = -1 if self.when == "first" else 1
        return {note.id: turn for note in self.notes if note.origin == "poisoned"}

    @property
    def kind(self) -> Kind:
        """Kind of the answers."""
        return "classification" if self.responses is None else "generation"
