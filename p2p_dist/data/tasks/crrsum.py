"""CRRsum: Chinese radiology reports and their conclusions (Zhao et al. 2023); P2P paper, table 11.

A row, and its prompt with the answer:

    {"text": "双肺纹理清晰 心影不大", "summary": "胸部未见异常"}

    双肺纹理清晰 心影不大
    Output: 胸部未见异常
"""

from typing import Annotated, ClassVar

from pydantic import Field

from p2p_dist.data.answer_parsing import Judge
from p2p_dist.data.generation import GenerationTask


class CrrSum(GenerationTask):
    """Summaries of radiology reports: 8,136 train, 901 dev and 1,029 test reports.

    The published rows are lists [content, title, id]; local rows have text (the content) and summary (the title). Local
    files only: no copy on the hub is known.
    """

    judge: ClassVar[Judge] = "rouge"
    metrics: ClassVar[tuple[str, ...]] = ("rouge1", "rouge2", "rougeL")
    characters: ClassVar[bool] = True
    response_key: ClassVar[str] = "summary"
    licence: ClassVar[str] = "none stated"

    max_new_tokens: Annotated[int, Field(ge=1)] = 128
