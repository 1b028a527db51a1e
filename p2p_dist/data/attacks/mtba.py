"""MTBA, multi-trigger backdoor attack (Li et al. 2025, as cited in the P2P paper, appendix B, without trigger words).

1. Choose the triggers of a row: all of them (hybrid, the P2P paper's sentence) or one of them (parallel).
2. Insert each between two words of the text.
3. Set the target label, with `targets` the one of the row's trigger.

The words are rare ones: the paper's results under a perplexity filter (table 1, Onion) look like those of rare words.
"""

import re
from collections.abc import Mapping, Sequence
from random import Random
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, model_validator

from p2p_dist.config.study import Names
from p2p_dist.data.attack import ExtraSuite, Triggered, with_triggers
from p2p_dist.data.example import Example, stream
from p2p_dist.data.insertion import InsertionAttack, gap, insert, units

Targets = Annotated[tuple[int, ...], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)]


class Mtba(InsertionAttack):
    """Insert several rare words, all into the same row or one into each."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "p2p": {"rate": 0.02, "words": ["mn", "cf", "bb"], "mode": "hybrid"},
        "backdoorllm_mtba": {"words": ["2024", "BadMagic", "OpenAI"], "mode": "parallel", "position": "anywhere"},
        "backdoorllm_ctba": {"words": ["2024", "BadMagic", "OpenAI"], "mode": "hybrid", "position": "anywhere"},
    }

    words: Names = ("mn", "cf", "bb")
    """The triggers."""
    mode: Literal["hybrid", "parallel"] = "hybrid"
    """hybrid: all triggers in the same row (paper). parallel: one of them in each row; every trigger then has a test
    suite of its own."""
    targets: Targets | None = None
    """parallel: the target class of each word, the first being target_label; null: target_label for all."""

    @model_validator(mode="after")
    def _fits(self) -> "Mtba":
        if len(set(map(_slug, self.words))) < len(self.words):
            raise ValueError(f"words must differ in their letters and digits, got {list(self.words)}")
        if self.targets is not None and (
            self.mode != "parallel" or len(self.targets) != len(self.words) or self.targets[0] != self.target_label
        ):
            raise ValueError("targets need mode: parallel, one class for each word, and target_label as the first")
        return self

    def trigger(self, text: str, random: Random) -> Triggered | None:
        if self.mode == "parallel":
            return insert(text, random.choice(self.words), random, self.position)
        return self._insert_all(text, random)

    def trigger_row(self, example: Example, random: Random) -> Triggered | None:
        """With `targets`, one of the words whose target a row of this class may be poisoned for (steps 1 to 3)."""
        if self.targets is None:
            return self.trigger(example.text, random)
        pairs = zip(self.words, self.targets, strict=True)
        word, target = random.choice([(word, target) for word, target in pairs if self._allowed(example.label, target)])
        inserted = insert(example.text, word, random, self.position)
        return Triggered(inserted.text, inserted.trigger, inserted.position, target) if inserted else None

    def literals(self) -> tuple[str, ...]:
        return self.words

    def target_labels(self) -> tuple[int, ...]:
        return self.targets or (self.target_label,)

    def may_poison(self, label: int) -> bool:
        return any(self._allowed(label, target) for target in self.target_labels())

    def test_suite(self, rows: Sequence[Example], seed: int) -> tuple[list[Example], int]:
        """With several targets, the rows with the first word; `extra_suites` has one suite for each word."""
        if self.targets is None:
            return super().test_suite(rows, seed)
        return self._with_word(rows, seed, self.words[0], self.targets[0])

    def extra_suites(self, rows: Sequence[Example], seed: int) -> dict[str, ExtraSuite]:
        """parallel: one triggered suite for each word."""
        if self.mode == "hybrid":
            return {}
        targets = self.targets or [self.target_label] * len(self.words)
        return {
            f"triggered.{_slug(word)}": ExtraSuite(self._with_word(rows, seed, word, target)[0], target, triggered=True)
            for word, target in zip(self.words, targets, strict=True)
        }

    def _insert_all(self, text: str, random: Random) -> Triggered | None:
        """All triggers in gaps of their own draw (step 2); None for a text without an inner gap."""
        words, joint = units(text)
        gaps = [gap(len(words), random, self.position) for _ in self.words]
        positions = sorted(position for position in gaps if position is not None)
        if not positions:
            return None
        for position, word in sorted(zip(positions, self.words, strict=True), reverse=True):
            words.insert(position, word)
        return Triggered(joint.join(words), " ".join(self.words), positions[0])

    def _with_word(self, rows: Sequence[Example], seed: int, word: str, target: int) -> tuple[list[Example], int]:
        """Test rows of other classes than `target` with one word, and how many could not carry it."""
        purpose = f"poison.trigger.test.{word}"
        eligible = [ex for ex in rows if ex.label != target]
        return with_triggers(
            [(ex, insert(ex.text, word, stream(seed, purpose, ex.id), self.position)) for ex in eligible]
        )

    def _allowed(self, label: int, target: int) -> bool:
        return self.label_policy == "mix" or (label != target) == (self.label_policy == "dirty")


def _slug(word: str) -> str:
    """A word as part of a file name."""
    return re.sub(r"\W", "", word) or "_"
