"""The paper's own numbers (arXiv 2510.04503, Tables 1 to 12), to stand beside ours.

`paper.csv` has one line per model, attack and defense of a table: CA and ASR in percent (Table 4: CA is the share of solved
problems; Table 11: ROUGE F1 instead of CA). `variant` tells apart what a table varies: prompts (6), label words (7).
"""

import csv
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
    return PaperRow(int(line["table"]), line["task"], line["model"], line["attack"], line["defense"], line["variant"], values)


def find(task: str, model: str, attack: str, defense: str) -> PaperRow | None:
    """The paper's line for a cell of a study, from the first table that has it; plug-in options are not looked at.

    A model counts as the paper's when the last part of its name is the same, as `Qwen/Qwen3-8B` and `qwen3-8b`.
    """
    name = model.rpartition("/")[2].partition("@")[0].lower()
    wanted = (task, name, attack.partition("(")[0], defense.partition("(")[0])
    return next((row for row in rows() if (row.task, row.model, row.attack, row.defense) == wanted), None)


def tables() -> Sequence[int]:
    """The numbers of the tables."""
    return sorted({row.table for row in rows()})
