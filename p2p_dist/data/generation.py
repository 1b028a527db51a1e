"""Tasks that are answered with text: what a row is made of and how a generated answer is judged."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from p2p_dist.data.answer_parsing import Judge, ResponseSpace
from p2p_dist.data.example import RawRow
from p2p_dist.data.task import Task


class GenerationTask(Task):
    """Base of the generation tasks in `tasks/`."""

    judge: ClassVar[Judge]
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    characters: ClassVar[bool] = False
    response_key: ClassVar[str]
    """Key of the gold answer in a row of a local file."""
    references_key: ClassVar[str | None] = None
    """Key of a list of further gold answers, where rows have one."""

    max_new_tokens: Annotated[int, Field(ge=1)] = 64
    """Where generation is cut off in evaluation."""

    @property
    def responses(self) -> ResponseSpace:
        return ResponseSpace(self.judge, self.max_new_tokens, self.characters)

    def check(self, row: Mapping[str, Any]) -> RawRow:
        text, response = row.get("text"), row.get(self.response_key)
        for key, value in (("text", text), (self.response_key, response)):
            if not isinstance(value, str) or not value.strip():
                raise ValueError(f"key {key!r} is missing, empty or not text")
        more = row.get(self.references_key, []) if self.references_key else []
        if not isinstance(more, list) or not all(isinstance(one, str) for one in more):
            raise ValueError(f"key {self.references_key!r} is not a list of texts")
        response = str(response).strip()
        return RawRow(
            str(text).strip(),
            response=response,
            references=tuple(one.strip() for one in more if one.strip() not in ("", response)),
        )
