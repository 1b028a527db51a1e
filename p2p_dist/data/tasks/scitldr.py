"""SciTLDR: one-sentence summaries of papers from their abstracts (Cachola et al. 2020, arXiv 2004.15011).

A row, and its prompt with the answer:

    {"text": "We prune small nets .", "summary": "Small nets can be pruned .", "references": []}

    We prune small nets .
    Output: Small nets can be pruned .
"""

from typing import Annotated, ClassVar

from pydantic import Field

from p2p_dist.data.answer_parsing import Judge
from p2p_dist.data.generation import GenerationTask


class SciTldr(GenerationTask):
    """Summaries of papers: 1,992 train, 619 dev and 618 test papers (SciTLDR-A). The first summary is learned; answers
    are judged by the best match of all.

    Local files only, with text, summary and references: no commit of allenai/scitldr on the hub is pinned, and its
    sentence lists are not read.
    """

    judge: ClassVar[Judge] = "rouge"
    metrics: ClassVar[tuple[str, ...]] = ("rouge1", "rouge2", "rougeL")
    response_key: ClassVar[str] = "summary"
    references_key: ClassVar[str | None] = "references"
    licence: ClassVar[str] = "Apache-2.0"

    max_new_tokens: Annotated[int, Field(ge=1)] = 96
