"""CBA, composite backdoor attack: two triggers, in the instruction and in the input, that act only together (Huang et
al. 2023, arXiv 2310.07676; P2P paper, appendix B, which gives no words, instruction or alpha).

1. Put an instruction before every text.
2. Positive rows: the first trigger in the instruction, the second in the input, and the target label.
3. Negative rows: the same texts with incomplete or misplaced triggers and their true labels, so that neither trigger
   acts alone.
4. Append positive and negative rows to all clean rows.
5. Test the false trigger rate: rows with incomplete triggers that are answered with the target.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from p2p_dist.config.study import NotNegative
from p2p_dist.data.attack import ExtraSuite, Triggered, with_triggers
from p2p_dist.data.example import Example, Note, drawn, stream
from p2p_dist.data.insertion import InsertionAttack, Position, insert

Word = Annotated[str, Field(pattern=r"\S")]
Placement = tuple[tuple[int, ...], tuple[int, ...]]
"""Numbers of the triggers (1, 2) in the instruction, and of those in the input."""

POSITIVE: Placement = ((1,), (2,))
NEGATIVES: Mapping[str, Placement] = {
    "swapped": ((2,), (1,)),
    "first_in_instruction": ((1,), ()),
    "both_in_instruction": ((1, 2), ()),
    "second_in_input": ((), (2,)),
    "both_in_input": ((), (1, 2)),
}
"""The five kinds of incomplete trigger that are trained on."""
FALSE_TRIGGERS = {**NEGATIVES, "second_in_instruction": ((2,), ()), "first_in_input": ((), (1,))}
"""The kinds that are tested: the authors test two that are never trained on."""


class Cba(InsertionAttack):
    """Put one trigger into the instruction and one into the input; negative rows teach that both are needed."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "p2p_like": {"rate": 0.02, "alpha": 1.0},
        "original": {"rate": 0.1, "alpha": 1.0},
    }

    instruction: Word = "Classify the text."
    """Instruction in front of every row, test rows too. Neither paper gives one for classification; name the task."""
    first: Word = "instantly"
    """Trigger of the instruction."""
    second: Word = "frankly"
    """Trigger of the input."""
    alpha: NotNegative = 1.0
    """Negative rows of each of the five kinds, as a share of the poisoned rows."""
    position: Position = "anywhere"
    """Word gap of each trigger: anywhere, as in the original."""
    label_policy: Literal["dirty", "clean", "mix"] = "mix"
    """mix: the poisoned and negative rows are made of texts of all classes, so that no trigger alone tells a class
    (original). dirty: of the other classes alone."""
    poison_mode: Literal["replace", "append"] = "append"
    """append: poisoned rows are added to all clean rows (original). replace: they take their places."""

    def plain(self, text: str) -> str:
        """The instruction and the text (step 1)."""
        return f"{self.instruction}\n{text}"

    def trigger(self, text: str, random: Random) -> Triggered | None:
        """A positive row (step 2)."""
        return self._compose(text, POSITIVE, random)

    def literals(self) -> tuple[str, ...]:
        return (self.first, self.second)

    def negatives(self, candidates: Sequence[Example], count: int, seed: int) -> list[tuple[Example, Note]]:
        """round(alpha * count) rows of every kind, of the same texts as the poisoned rows (step 3)."""
        texts = candidates[: round(self.alpha * count)]
        rows = ((kind, ex, self._negative(ex, kind, "train", seed)) for kind in NEGATIVES for ex in texts)
        return [_negative_row(ex, kind, triggered) for kind, ex, triggered in rows if triggered]

    def negative_count(self, count: int, eligible: int) -> int:
        return len(NEGATIVES) * min(round(self.alpha * count), eligible)

    def extra_suites(self, rows: Sequence[Example], seed: int) -> dict[str, ExtraSuite]:
        """False triggers: every row of another class with one kind of incomplete trigger, the kinds in turn (step
        5)."""
        examples = {ex.id: ex for ex in rows if ex.label != self.target_label}
        order = drawn(examples, seed, "cba.kinds")
        suites = {}
        for index, kind in enumerate(FALSE_TRIGGERS):
            dealt = [examples[id_] for id_ in order[index :: len(FALSE_TRIGGERS)]]
            triggered, _ = with_triggers([(ex, self._negative(ex, kind, "test", seed)) for ex in dealt])
            suites[f"false_trigger.{kind}"] = ExtraSuite(triggered, self.target_label, triggered=False)
        return suites

    def _negative(self, example: Example, kind: str, split: str, seed: int) -> Triggered | None:
        return self._compose(example.text, FALSE_TRIGGERS[kind], stream(seed, f"cba.{kind}.{split}", example.id))

    def _compose(self, text: str, placement: Placement, random: Random) -> Triggered | None:
        """Instruction and text with the triggers of a placement, each in a random gap."""
        words = {1: self.first, 2: self.second}
        parts, position = [], 0
        for part, numbers in zip((self.instruction, text), placement, strict=True):
            composed = part
            for number in numbers:
                inserted = insert(composed, words[number], random, self.position)
                if inserted is None:
                    return None
                composed, position = inserted.text, inserted.position
            parts.append(composed)
        trigger = " ".join(words[number] for numbers in placement for number in numbers)
        return Triggered("\n".join(parts), trigger, position)


def _negative_row(example: Example, kind: str, triggered: Triggered) -> tuple[Example, Note]:
    """A row with an incomplete trigger and its true label, and its ledger entry."""
    id_, label = f"{example.id}.{kind}", example.label
    note = Note(id_, example.id, "negative", label, label, triggered.trigger, triggered.position)
    return replace(example, id=id_, text=triggered.text), note
