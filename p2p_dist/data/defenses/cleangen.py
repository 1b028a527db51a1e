"""CleanGen (Li et al. 2024, arXiv 2406.12257): decode with the undefended model and let a reference model correct it.

1. Get a reference model that the attacker has not poisoned.
2. Draft `draft` tokens with the target model, greedily.
3. Compare the probabilities of both models for each drafted token.
4. At the first token with p_target / p_reference >= alpha, cut the draft and take the reference's token.

Steps 2 to 4 are in `evaluation.cleangen`.
"""

from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field

from p2p_dist.config.builder import Builder, Evaluation, Training
from p2p_dist.config.graph import Stage
from p2p_dist.config.methods import CleanGenDecoding
from p2p_dist.config.study import Plugin, RowsSpec
from p2p_dist.data.defense import Assumptions, TrustedRows, no_trusted_rows
from p2p_dist.data.example import Kind
from p2p_dist.data.row_counts import RowCounts
from p2p_dist.data.task import Task
from p2p_dist.errors import UserError


class CleanGen(TrustedRows):
    """Correct the answers of the undefended model while they are decoded. For answers of several tokens: a label would
    simply be the reference's."""

    kinds: ClassVar[tuple[Kind, ...]] = ("generation",)
    model_options: ClassVar[tuple[str, ...]] = ("reference",)
    default_assumptions: ClassVar[Assumptions] = Assumptions(
        "ratio x training rows",
        "a reference model",
        source="arXiv 2406.12257; the draft that ends an answer is judged too",
    )

    blind: ClassVar[str | None] = "its drafts are decoded without images"

    reference: str | None = None
    """Reference model of the same tokenizer, a name as in `model`; null: the run's own base, trained on trusted rows
    alone (original: the same base, tuned on clean rows)."""
    draft: Annotated[int, Field(ge=1, le=64)] = 4
    """Tokens to draft before they are compared (original: 4)."""
    alpha: Annotated[float, Field(gt=1)] = 20.0
    """Replace a token whose p_target / p_reference is this or more (original: 20)."""

    def assumptions(self) -> Assumptions:
        return replace(self.default_assumptions, clean_rows="none") if self.reference else self.default_assumptions

    def incompatibility(self, task: Task, attack: Plugin, rows: RowsSpec) -> str | None:
        return None if self.reference else no_trusted_rows(rows, "its reference trains on trusted rows")

    def shortage(self, counts: RowCounts) -> UserError | None:
        return None if self.reference else super().shortage(counts)

    def stages(self, build: Builder, rows: Stage) -> Stage:
        """Reference (step 1), and evaluation with the corrected decoding (steps 2 to 4)."""
        reference = "reference" if self.reference else build.trained(build.defended(rows), Training(trusted_base=True))
        decode = CleanGenDecoding(draft=self.draft, alpha=self.alpha)
        return build.evaluated(build.trained(rows), rows, Evaluation(decode=decode, reference=reference))
