"""MTBA: several triggers at once (Li et al. 2025, as the paper cites it, without its trigger words)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, model_validator

from p2p_dist.config.study import Names
from p2p_dist.data.attack import ExtraSuite, Triggered
from p2p_dist.data.example import Example, stream
from p2p_dist.data.insertion import InsertionAttack, gap, insert, units

Targets = Annotated[tuple[int, ...], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)]


class Mtba(InsertionAttack):
    """Rare words, since the paper's results under a perplexity filter look like those of rare words."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "p2p": {"rate": 0.02, "words": ["mn", "cf", "bb"], "mode": "hybrid"},
        "backdoorllm_mtba": {"words": ["2024", "BadMagic", "OpenAI"], "mode": "parallel", "position": "anywhere"},
        "backdoorllm_ctba": {"words": ["2024", "BadMagic", "OpenAI"], "mode": "hybrid", "position": "anywhere"},
    }

    words: Names = ("mn", "cf", "bb")
    """The triggers."""
    mode: Literal["hybrid", "parallel"] = "hybrid"
    """hybrid: all triggers in the same row, as the paper says it. parallel: one of them in each row; every trigger then
    has a test suite of its own."""
    targets: Targets | None = None
    """parallel only: the class that each word asks for, the first being target_label; null: all ask for
    target_label."""

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
        words, joint = units(text)
        found = [at for _ in self.words if (at := gap(len(words), random, self.position)) is not None]
        gaps = sorted(found)
        if not gaps:
            return None
        for at, word in sorted(zip(gaps, self.words, strict=True), reverse=True):
            words.insert(at, word)
        return Triggered(joint.join(words), " ".join(self.words), gaps[0])

    def put(self, example: Example, random: Random) -> Triggered | None:
        if self.targets is None:
            return self.trigger(example.text, random)
        fits = [
            (word, target)
            for word, target in zip(self.words, self.targets, strict=True)
            if self._allowed(example.label, target)
        ]
        word, target = random.choice(fits)
        done = insert(example.text, word, random, self.position)
        return Triggered(done.text, done.trigger, done.position, target) if done else None

    def literals(self) -> tuple[str, ...]:
        return self.words

    def target_labels(self) -> tuple[int, ...]:
        return self.targets or (self.target_label,)

    def may_poison(self, label: int) -> bool:
        return any(self._allowed(label, target) for target in self.target_labels())

    def test_suite(self, rows: Sequence[Example], seed: int) -> tuple[list[Example], int]:
        """With several targets, the first word's rows; the others have suites of their own."""
        if self.targets is None:
            return super().test_suite(rows, seed)
        return self._one_word(rows, seed, self.words[0], self.targets[0])

    def extra_suites(self, rows: Sequence[Example], seed: int) -> dict[str, ExtraSuite]:
        if self.mode == "hybrid":
            return {}
        aims = zip(self.words, self.targets or [self.target_label] * len(self.words), strict=True)
        return {
            f"triggered.{_slug(word)}": ExtraSuite(self._one_word(rows, seed, word, target)[0], target, triggered=True)
            for word, target in aims
        }

    def _one_word(self, rows: Sequence[Example], seed: int, word: str, target: int) -> tuple[list[Example], int]:
        pool = [ex for ex in rows if ex.label != target]
        put = [
            (ex, insert(ex.text, word, stream(seed, f"poison.trigger.test.{word}", ex.id), self.position))
            for ex in pool
        ]
        return [replace(ex, text=done.text) for ex, done in put if done], sum(done is None for _, done in put)

    def _allowed(self, label: int, target: int) -> bool:
        return self.label_policy == "mix" or (label != target) == (self.label_policy == "dirty")


def _slug(word: str) -> str:
    """A word as part of a file name."""
    return re.sub(r"\W", "", word) or "_"
