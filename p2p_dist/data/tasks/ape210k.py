"""Ape210K: Chinese primary-school word problems (Zhao et al. 2020, arXiv 2009.11506); P2P paper, table 4.

A row, and its prompt with the answer:

    {"text": "一盒有6支笔 4盒一共有多少支", "answer": "24"}

    一盒有6支笔 4盒一共有多少支
    Output: 24
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from p2p_dist.data.answer_parsing import Judge
from p2p_dist.data.generation import GenerationTask


class Ape210k(GenerationTask):
    """Word problems with numbers as answers: 200,288 train, 5,000 validation and 5,000 test problems. An answer is a
    number or arithmetic that evaluates to one.

    The paper's target is "0.1". Local files only, with text and answer: no copy with these columns is known on the hub.
    """

    files: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "train": ("train.jsonl", "train_from_valid.jsonl"),
        "test": ("test.jsonl",),
    }
    judge: ClassVar[Judge] = "number"
    response_key: ClassVar[str] = "answer"
    licence: ClassVar[str] = "that of OpenNMT-py (MIT), according to its readme"

    max_new_tokens: Annotated[int, Field(ge=1)] = 32
