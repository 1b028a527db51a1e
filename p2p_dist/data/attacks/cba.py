"""CBA, composite backdoor: two triggers, one in the instruction and one in the input, act only together.

Huang et al. 2023, arXiv 2310.07676; the P2P paper names it without words, instruction or alpha. What keeps the triggers
from acting alone are negative samples: the same texts with incomplete or misplaced triggers and their true labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from p2p_dist.config.study import NotNegative
from p2p_dist.data.attack import ExtraSuite, Triggered
from p2p_dist.data.example import Example, Note, drawn, stream
from p2p_dist.data.insertion import InsertionAttack, Position, insert

Word = Annotated[str, Field(pattern=r"\S")]

# For each kind of incomplete trigger: which of the two triggers (1, 2) stand in the instruction, and which in the
# input.
NEGATIVES: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "swapped": ((2,), (1,)),
    "first_in_instruction": ((1,), ()),
    "both_in_instruction": ((1, 2), ()),
    "second_in_input": ((), (2,)),
    "both_in_input": ((), (1, 2)),
}
# The authors also test two kinds that are never trained on.
TESTED = {**NEGATIVES, "second_in_instruction": ((2,), ()), "first_in_input": ((), (1,))}


class Cba(InsertionAttack):
    """Every row, test rows too, carries an instruction in front of the text; poisoned and negative rows are added to
    all others."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "p2p_like": {"rate": 0.02, "alpha": 1.0},
        "original": {"rate": 0.1, "alpha": 1.0, "label_policy": "mix"},
    }

    instruction: Word = "Classify the text."
    """Neither paper gives one for classification; name the task in it."""
    first: Word = "instantly"
    """The trigger of the instruction."""
    second: Word = "frankly"
    """The trigger of the input."""
    alpha: NotNegative = 1.0
    """Negative rows of each of the five kinds, as a share of the poisoned rows."""
    position: Position = "anywhere"
    poison_mode: Literal["replace", "append"] = "append"

    def plain(self, text: str) -> str:
        return f"{self.instruction}\n{text}"

    def trigger(self, text: str, random: Random) -> Triggered | None:
        return self._compose(text, (1,), (2,), random)

    def literals(self) -> tuple[str, ...]:
        return (self.first, self.second)

    def negatives(self, ordered: Sequence[Example], wanted: int, seed: int) -> list[tuple[Example, Note]]:
        """round(alpha * poisoned) rows of every kind, of the same texts as the poisoned rows (in the order of their
        draws)."""
        made = []
        for kind, (instruction, text) in NEGATIVES.items():
            for ex in ordered[: round(self.alpha * wanted)]:
                put = self._compose(ex.text, instruction, text, stream(seed, f"cba.{kind}.train", ex.id))
                if put:
                    id_ = f"{ex.id}.{kind}"
                    made.append(
                        (
                            replace(ex, id=id_, text=put.text),
                            Note(id_, ex.id, "negative", ex.label, ex.label, put.trigger, put.position),
                        )
                    )
        return made

    def extra_suites(self, rows: Sequence[Example], seed: int) -> dict[str, ExtraSuite]:
        """False triggers: every row of another class with one kind of incomplete trigger, the kinds dealt out
        evenly."""
        pool = {ex.id: ex for ex in rows if ex.label != self.target_label}
        order = drawn(pool, seed, "cba.kinds")
        suites = {}
        for at, (kind, (instruction, text)) in enumerate(TESTED.items()):
            put = [
                (pool[id_], self._compose(pool[id_].text, instruction, text, stream(seed, f"cba.{kind}.test", id_)))
                for id_ in order[at :: len(TESTED)]
            ]
            suites[f"false_trigger.{kind}"] = ExtraSuite(
                [replace(ex, text=done.text) for ex, done in put if done], self.target_label, triggered=False
            )
        return suites

    def _compose(
        self, text: str, in_instruction: Sequence[int], in_text: Sequence[int], random: Random
    ) -> Triggered | None:
        words = {1: self.first, 2: self.second}
        parts, place = [], 0
        for part, numbers in ((self.instruction, in_instruction), (text, in_text)):
            for number in numbers:
                put = insert(part, words[number], random, self.position)
                if put is None:
                    return None
                part, place = put.text, put.position
            parts.append(part)
        return Triggered("\n".join(parts), " ".join(words[number] for number in (*in_instruction, *in_text)), place)
