"""Base of the tasks with text as answer: columns of a row and the metric of a generated answer."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from p2p_dist.data import cells
from p2p_dist.data.answer_parsing import Judge, ResponseSpace
from p2p_dist.data.example import RawRow
from p2p_dist.data.task import Task


class GenerationTask(Task):
    """Base of the generation tasks in `tasks/`. Local rows have the keys text and `response_key`."""

    judge: ClassVar[Judge]
    """Metric of a generated answer."""
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    characters: ClassVar[bool] = False
    """Compute ROUGE over characters and not words."""
    response_key: ClassVar[str]
    """Key of the gold answer in a row of a local file."""
    references_key: ClassVar[str | None] = None
    """Key of a list of further gold answers, where rows have one."""

    max_new_tokens: Annotated[int, Field(ge=1)] = 64
    """Tokens after which generation stops in evaluation."""

    @property
    def responses(self) -> ResponseSpace:
        return ResponseSpace(self.judge, self.max_new_tokens, self.characters)

    def check(self, row: Mapping[str, Any]) -> RawRow:
        text = cells.text(row, "text")
        response = cells.response(row, self.response_key, numbers=self.judge == "number")
        references = row.get(self.references_key, []) if self.references_key else []
        if not isinstance(references, list) or not all(isinstance(reference, str) for reference in references):
            raise ValueError(f"column {self.references_key!r} is not a list of texts")
        further = (cells.checked(other, "a reference") for other in references if other.strip())
        return RawRow(text, response=response, references=tuple(other for other in further if other != response))
