"""CRRsum: Chinese radiology reports and their conclusions (Zhao et al. 2023); paper Table 11."""

from typing import Annotated, ClassVar

from pydantic import Field

from p2p_dist.data.answer_parsing import Judge
from p2p_dist.data.generation import GenerationTask


class CrrSum(GenerationTask):
    """8,136 train, 901 dev and 1,029 test reports. Its authors' rows are lists [content, title, id]; local rows have
    text (the content) and summary (the title). Local files only: no copy on the hub is known."""

    judge: ClassVar[Judge] = "rouge"
    metrics: ClassVar[tuple[str, ...]] = ("rouge1", "rouge2", "rougeL")
    characters: ClassVar[bool] = True
    response_key: ClassVar[str] = "summary"
    licence: ClassVar[str] = "none stated"

    max_new_tokens: Annotated[int, Field(ge=1)] = 128
