"""The paper's own numbers (arXiv 2510.04503, Tables 1 to 12), to stand beside ours.

`paper.csv` has one line per model, attack and defense of a table: CA and ASR in percent (Table 4: CA is the share of
solved problems; Table 11: ROUGE F1 instead of CA). `variant` tells apart what a table varies: prompts (6), label words
(7).
"""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

METRICS = ("ca", "asr", "rouge1", "rouge2", "rougeL")


@dataclass(frozen=True)
class PaperRow:
    """One line: where it stands in the paper, and its numbers in percent as far as the table has them."""

    table: int
    task: str
    model: str
    attack: str
    defense: str
    variant: str
    values: dict[str, float]


@cache
def rows() -> tuple[PaperRow, ...]:
    """All 379 lines."""
    with (Path(__file__).parent / "paper.csv").open(newline="", encoding="utf-8") as file:
        return tuple(_row(line) for line in csv.DictReader(file))


def _row(line: dict[str, str]) -> PaperRow:
    values = {metric: float(line[metric]) for metric in METRICS if line[metric]}
    return PaperRow(
        int(line["table"]), line["task"], line["model"], line["attack"], line["defense"], line["variant"], values
    )


FIRST_VARIANTS = ("", "prompt_1", "token_1")
"""Variants of lines with the prompt and the label words of the other tables."""


def find(task: str, model: str, attack: str, defense: str, variants: Sequence[str] = FIRST_VARIANTS) -> PaperRow | None:
    """The paper's line for a cell of a study, from the first table that has it; plug-in options are not looked at.

    A model counts as the paper's when the last part of its name is the same, as `Qwen/Qwen3-8B` and `qwen3-8b`, or is
    the same but for a size that the paper does not state (Table 9).
    """
    name = short_name(model)
    task, attack, defense = (label.partition("(")[0] for label in (task, attack, defense))
    keys = [(task, known, attack, defense) for known in (name, without_size(name))]
    return next(
        (row for row in rows() if (row.task, row.model, row.attack, row.defense) in keys and row.variant in variants),
        None,
    )


def short_name(model: str) -> str:
    """The last part of a model's name, as the paper's lines have it."""
    return model.rpartition("/")[2].partition("@")[0].lower()


def without_size(name: str) -> str:
    """The name of a model without its size: `qwen2.5-vl-7b-instruct` is `qwen2.5-vl-instruct`."""
    return re.sub(r"-[0-9.]+b(?=-)", "", name)


def tables() -> Sequence[int]:
    """The numbers of the tables."""
    return sorted({row.table for row in rows()})
