"""CleanGen (Li et al. 2024, arXiv 2406.12257): the undefended model drafts, and a reference model replaces the tokens
of which it is far less sure."""

from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field

from p2p_dist.config.builder import Builder, Evaluation, Training
from p2p_dist.config.graph import Stage
from p2p_dist.config.methods import CleanGenDecoding
from p2p_dist.config.study import Plugin, RowsSpec
from p2p_dist.data.defense import Assumptions, TrustedRows
from p2p_dist.data.example import Kind


class CleanGen(TrustedRows):
    """Acts while answers are decoded, and leaves the training as it is. Makes sense for answers of several tokens: a
    label would simply be the reference's."""

    kinds: ClassVar[tuple[Kind, ...]] = ("generation",)
    model_options: ClassVar[tuple[str, ...]] = ("reference",)
    default_assumptions: ClassVar[Assumptions] = Assumptions(
        "ratio x training rows",
        "a reference model",
        source="arXiv 2406.12257; the draft that ends an answer is judged too",
    )

    reference: str | None = None
    """The model that judges tokens, a name as in `model`, of the same tokenizer; null: the run's own base, trained on
    checked rows alone (the original: the same base, tuned on clean rows)."""
    draft: Annotated[int, Field(ge=1, le=64)] = 4
    """Tokens that are drafted before they are judged (original: 4)."""
    alpha: Annotated[float, Field(gt=1)] = 20.0
    """Replace a token of which the target is this many times as sure as the reference, or more (original: 20)."""

    def assumptions(self) -> Assumptions:
        return replace(self.default_assumptions, clean_rows="none") if self.reference else self.default_assumptions

    def incompatibility(self, task: Plugin, attack: Plugin, rows: RowsSpec) -> str | None:
        return (
            None
            if rows.reserve or self.reference
            else "its reference trains on rows that the defender has checked: set rows.reserve, or name a reference"
        )

    def stages(self, build: Builder, rows: Stage) -> Stage:
        decode = CleanGenDecoding(draft=self.draft, alpha=self.alpha)
        reference = "reference" if self.reference else build.trained(build.defended(rows), Training(trusted_base=True))
        return build.evaluated(build.trained(rows), rows, Evaluation(decode=decode, reference=reference))
