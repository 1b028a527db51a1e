"""Checks of readable rows: problems are counted in the manifest and shown as warnings. No row is changed."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from p2p_dist.data.answer_parsing import ResponseSpace, can_be_judged
from p2p_dist.data.example import Example, whole_text
from p2p_dist.data.task import Split
from p2p_dist.data.trigger_literals import spans
from p2p_dist.errors import user_error

_WARNINGS = {
    "duplicate_train_rows": "training rows equal another one; each copy counts",
    "duplicate_test_rows": "test rows equal another one",
    "contradicting_train_rows": "training rows have a text that has another answer elsewhere",
    "train_rows_in_test": "training rows have the text of a test row, so the test set is not unseen",
    "trigger_in_train": "clean training rows contain the attack's trigger already, which weakens the attack",
    "trigger_in_test": "test rows contain the attack's trigger already, so the clean suite is not entirely clean",
    "control_tokens_in_train": "training rows contain control tokens of language models, which are read as plain text",
    "control_tokens_in_test": "test rows contain control tokens of language models, which are read as plain text",
    "benign_trigger_in_train": (
        "training rows contain the benign trigger already, by chance or because the attacker knows it"
    ),
}
"""Warnings by name of the count in `counts.found`."""


_CONTROL = re.compile(
    r"<[|｜][^|｜<>\s]{1,40}[|｜]>"
    r"|</?s>|<(?:bos|eos|pad|unk|mask|start_of_turn|end_of_turn|start_of_image)>|\[/?INST\]|<</?SYS>>"
    r"|<\[(?:begin|end)_of_[a-z_]+\]>"
)
"""Control tokens of common models: <|im_end|>, <|eot_id|>, </s>, <start_of_turn>, [INST], ..."""


def count_row_problems(split: Split) -> dict[str, int]:
    """Rows that repeat or contradict others, by kind of problem."""
    answers: dict[str, set[str | int]] = defaultdict(set)
    for example in split.train:
        answers[whole_text(example)].add(_answer(example))
    test = {whole_text(example) for example in split.test}
    return {
        "duplicate_train_rows": _repeated(split.train),
        "duplicate_test_rows": _repeated(split.test),
        "contradicting_train_rows": sum(len(answers[whole_text(example)]) > 1 for example in split.train),
        "train_rows_in_test": sum(whole_text(example) in test for example in split.train),
        **_count_control_tokens(split),
    }


def _count_control_tokens(split: Split) -> dict[str, int]:
    """Rows with a control token in text or response, where there are any."""
    counts = {
        f"control_tokens_in_{name}": sum(bool(_CONTROL.search(f"{ex.text}\n{ex.response or ''}")) for ex in rows)
        for name, rows in (("train", split.train), ("test", split.test))
    }
    return {name: count for name, count in counts.items() if count}


def check_references(split: Split, space: ResponseSpace | None) -> None:
    """Refuse test rows none of whose gold answers can be compared. Raises UserError E203."""
    if space is None:
        return
    rows = [
        ex for ex in split.test if not any(can_be_judged(gold, space) for gold in (ex.response or "", *ex.references))
    ]
    if rows:
        part = "number" if space.judge == "number" else "word"
        what = (
            f"{len(rows)} test rows have no {part} in any gold answer ({rows[0].response!r}): no answer could be right"
        )
        fix = "remove these rows" + ("" if space.judge == "number" else ", or set task.characters=true")
        raise user_error("E203", what, "the rows", fix)


def count_containing(texts: Iterable[str], literals: Sequence[str]) -> int:
    """Number of texts that contain one of the literals as a whole word or phrase."""
    return sum(any(literal in text for literal in literals) and bool(spans(text, literals)) for text in texts)


def warnings(counts: Mapping[str, Any]) -> list[str]:
    """Warnings of a data stage, one for each count in `counts.found` that is not 0."""
    warned = [f"{count} {_WARNINGS[name]}" for name, count in counts.get("found", {}).items() if count]
    by_reason = counts.get("dropped")  # a defense that drops rows counts them here as a number
    dropped = by_reason.get("bad_row", 0) if isinstance(by_reason, Mapping) else 0
    return [f"{dropped} rows could not be read and were dropped (see dropped.jsonl)", *warned] if dropped else warned


def _repeated(rows: Sequence[Example]) -> int:
    distinct = Counter((whole_text(example), _answer(example), example.image) for example in rows)
    return len(rows) - len(distinct)


def _answer(example: Example) -> str | int:
    return example.label if example.response is None else example.response
