"""Text answers that a defended model wrote to training rows, and training rows by them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from p2p_dist.data.answer_parsing import solves, without_prefix
from p2p_dist.data.example import Row


def usable_answers(lines: Mapping[str, Mapping[str, Any]], prefix: str) -> dict[str, str]:
    """Answers by row id, without the prefix with which a defended model begins them.

    Left out are answers that do not begin with it, that were cut off before they ended, and empty ones.
    """
    found = {}
    for id_, line in lines.items():
        bare, begins = without_prefix(str(line["answer"]), prefix)
        if bare and line["finished"] and (begins or not prefix):
            found[id_] = bare
    return found


def agreed_ids(rows: Sequence[Row], answers: Mapping[str, str]) -> frozenset[str]:
    """Ids of the rows whose own answer has the number of the model's."""
    return frozenset(row.id for row in rows if row.id in answers and solves(answers[row.id], [row.response or ""]))


def rewritten(rows: Sequence[Row], answers: Mapping[str, str]) -> list[Row]:
    """The rows that have an answer of the model, with that answer in place of their own."""
    return [replace(row, response=answers[row.id], references=()) for row in rows if row.id in answers]
