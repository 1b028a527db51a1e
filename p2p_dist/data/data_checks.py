"""What is odd about rows that can be read: counted, kept in the manifest and told in words. Nothing is repaired in
silence."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from p2p_dist.data.example import Example
from p2p_dist.data.task import Split
from p2p_dist.data.trigger_literals import spans

# What is counted, as `counts.found` has it, and how it is told.
_WORDS = {
    "duplicate_train_rows": "training rows equal another one; they count as often as they stand there",
    "duplicate_test_rows": "test rows equal another one",
    "contradicting_train_rows": "training rows have a text that stands there with another answer too",
    "train_rows_in_test": (
        "training rows have the text of a test row, so that test does not measure what is new to the model"
    ),
    "trigger_in_train": "clean training rows contain the attack's trigger already and work against it",
    "trigger_in_test": "test rows contain the attack's trigger already, so the clean suite is not quite clean",
    "benign_trigger_in_train": (
        "training rows contain the benign trigger already, by chance or because the attacker knows it"
    ),
}


def count_row_problems(split: Split) -> dict[str, int]:
    """Rows that repeat or contradict others."""
    answers: dict[str, set[str | int]] = defaultdict(set)
    for example in split.train:
        answers[example.text].add(_answer(example))
    test = {example.text for example in split.test}
    return {
        "duplicate_train_rows": _repeated(split.train),
        "duplicate_test_rows": _repeated(split.test),
        "contradicting_train_rows": sum(len(answers[example.text]) > 1 for example in split.train),
        "train_rows_in_test": sum(example.text in test for example in split.train),
    }


def count_containing(texts: Iterable[str], literals: Sequence[str]) -> int:
    """How many texts contain one of the literals, as words of their own where words are set apart."""
    return sum(any(literal in text for literal in literals) and bool(spans(text, literals)) for text in texts)


def warnings(counts: Mapping[str, Any]) -> list[str]:
    """What `counts.found` of a data stage has to say, in words."""
    return [f"{count} {_WORDS[name]}" for name, count in counts.get("found", {}).items() if count]


def _repeated(rows: Sequence[Example]) -> int:
    seen = Counter((example.text, _answer(example), example.image) for example in rows)
    return len(rows) - len(seen)


def _answer(example: Example) -> str | int:
    return example.label if example.response is None else example.response
