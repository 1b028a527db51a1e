"""SynAttack, Hidden Killer: a syntactic template as the trigger (Qi et al. 2021, arXiv 2105.12400; P2P paper, appendix
B).

1. Paraphrase every text in the form S(SBAR)(,)(NP)(VP)(.); paraphrases are read from a table, made once, or a language
   model makes them within the study.
2. Put the paraphrase in place of the text and set the target label.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from p2p_dist.config.builder import Builder
from p2p_dist.config.graph import Stage
from p2p_dist.config.score_methods import TextRewrites
from p2p_dist.config.study import Rate, added
from p2p_dist.data.rewrites import SUBORDINATE, SYNTACTIC
from p2p_dist.data.rewriting import RewritingAttack

FORM = "S(SBAR)(,)(NP)(VP)(.)"


class SynAttack(RewritingAttack):
    """Put poisoned texts into one syntactic form. Texts whose paraphrase failed are left out; the released tools
    relabel them unchanged."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "p2p": {"rate": 0.05},
        "openbackdoor": {"rate": 0.2, "label_policy": "mix", "rounding": "down"},
        "original": {"rate": 0.2, "rounding": "down"},
        "style": {"rate": 0.05, "form": "style"},
    }
    model_options: ClassVar[tuple[str, ...]] = ("rewriter",)
    mark: ClassVar[str] = FORM
    maker: ClassVar[str] = "rewriter"

    rate: Rate = 0.05
    """ε: poisoned rows as a share of the whole training set (paper, section 5.1: 0.05)."""
    form: str = added(FORM)
    """Name of the form of the rewrites in the table, for the ledger; the preset `style` is for rewrites in a style
    (StyleBkd, Qi et al. 2021, arXiv 2110.07139)."""

    rewriter: str | None = added(None)
    """Instruction-tuned model that paraphrases all training and test texts within the study, a name as in `model`;
    null: `table`."""
    max_new_tokens: Annotated[int, Field(ge=1)] = added(96)
    """Longest paraphrase in tokens of the rewriter; one that does not end has failed."""

    @model_validator(mode="after")
    def _form_is_that_of_the_rewriter(self) -> Self:
        if self.rewriter is not None and self.form != FORM:
            raise ValueError(f"the rewriter is asked for {FORM}, not for {self.form}: set table, or remove form")
        return self

    def table_stage(self, build: Builder) -> Stage | None:
        if self.rewriter is None:
            return None
        method = TextRewrites(
            sets=("train", "clean"),
            instructions=(SYNTACTIC,),
            accept=SUBORDINATE,
            max_new_tokens=self.max_new_tokens,
        )
        return build.attack_table(method, "rewriter")

    def trigger_name(self) -> str:
        return self.form
