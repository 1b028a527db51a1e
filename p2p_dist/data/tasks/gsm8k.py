"""GSM8K: grade-school mathematics in words (Cobbe et al. 2021, arXiv 2110.14168)."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from p2p_dist.data.answer_parsing import Judge
from p2p_dist.data.example import RawRow
from p2p_dist.data.generation import GenerationTask
from p2p_dist.data.task import HubSource


class Gsm8k(GenerationTask):
    """7,473 train and 1,319 test problems. Local rows have text, solution and answer (the number alone)."""

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
    """What the model learns to say: the number, or the worked solution with the number behind `####`."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 256

    def check(self, row: Mapping[str, Any]) -> RawRow:
        found = super().check(row)
        if self.teach == "answer":
            return found
        if not isinstance(row.get("solution"), str):
            raise ValueError("key 'solution' is missing or not text (task.teach: solution)")
        return found._replace(response=f"{row['solution'].strip()}\n#### {found.response}")

    def from_hub(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        ours = super().from_hub(row)
        solution, _, answer = str(ours["worked"]).partition("####")
        return {"text": ours["text"], "solution": solution, "answer": answer.strip().replace(",", "")}
