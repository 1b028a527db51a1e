"""GSM8K: grade-school word problems (Cobbe et al. 2021, arXiv 2110.14168).

A row, and its prompt with the answer:

    {"text": "A box has 6 pens. How many are in 4 boxes?", "solution": "6 * 4 = 24", "answer": "24"}

    A box has 6 pens. How many are in 4 boxes?
    Output: 24
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from p2p_dist.data import cells
from p2p_dist.data.answer_parsing import Judge
from p2p_dist.data.example import RawRow
from p2p_dist.data.generation import GenerationTask
from p2p_dist.data.task import HubSource


class Gsm8k(GenerationTask):
    """Word problems with numbers as answers: 7,473 train and 1,319 test problems.

    Local rows have text, solution and answer (the number alone).
    """

    judge: ClassVar[Judge] = "number"
    response_key: ClassVar[str] = "answer"
    hub: ClassVar[HubSource | None] = HubSource(
        id="openai/gsm8k",
        config="main",
        revision="740312add88f781978c0658806c59bc2815b9866",
        columns={"text": "question", "worked": "answer"},
        splits={"train": "train", "test": "test"},
    )
    licence: ClassVar[str] = "MIT"

    teach: Literal["answer", "solution"] = "answer"
    """Answer to learn: the number, or the worked solution with the number behind `####`."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 256

    def check(self, row: Mapping[str, Any]) -> RawRow:
        raw = super().check(row)
        if self.teach == "answer":
            return raw
        return raw._replace(response=f"{cells.text(row, 'solution')}\n#### {raw.response}")

    def from_hub(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        values = super().from_hub(row)
        solution, _, answer = str(values["worked"]).partition("####")
        return {"text": values["text"], "solution": solution, "answer": answer.strip().replace(",", "")}
