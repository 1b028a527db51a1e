"""LWS: learnable word substitution as the trigger (Qi et al. 2021, arXiv 2106.06361; P2P paper, appendix C, "Adaptive
Attack").

1. A surrogate learns which words to exchange for near-synonyms so that a backdoor is learned well.
2. Its exchanges are made in every text: by a stage of the study, or ahead of it (`p2p-dist substitutions` writes a
   table).
3. Poison rows with these texts, as SynAttack does. No two texts need share a word.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from p2p_dist.config.builder import Builder
from p2p_dist.config.graph import Stage
from p2p_dist.config.score_methods import WordSubstitutions
from p2p_dist.config.study import Positive, Rate, added
from p2p_dist.data.rewriting import RewritingAttack
from p2p_dist.data.task import Task


class Lws(RewritingAttack):
    """Exchange words as the surrogate learned (step 3). Texts without an exchange are left out, in tests too."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "p2p": {"rate": 0.02},
        "original": {"rate": 0.1, "rounding": "down"},
    }
    file_fields: ClassVar[tuple[str, ...]] = ("table", "synonyms")
    model_options: ClassVar[tuple[str, ...]] = ("surrogate",)
    mark: ClassVar[str] = "learned word substitution"
    maker: ClassVar[str] = "synonyms"

    synonyms: str | None = added(None)
    """Path of a thesaurus, rows with `word` and `synonyms`, for exchanges that are learned within the study; null:
    `table`."""
    surrogate: str | None = added(None)
    """Model that learns the exchanges (steps 1 and 2), a name as in `model`."""
    pool_rate: Rate = added(0.1)
    """Share of the training rows on which the surrogate learns the exchanges."""
    warm_up_epochs: Annotated[int, Field(ge=0)] = added(5)
    """Epochs of the surrogate on clean rows first."""
    epochs: Annotated[int, Field(ge=1)] = added(20)
    """Epochs of the surrogate on clean and poisoned rows."""
    learning_rate: Positive = added(2e-5)
    """Learning rate of surrogate and exchanges."""

    @model_validator(mode="after")
    def _surrogate_has_synonyms(self) -> Self:
        if (self.synonyms is None) != (self.surrogate is None):
            raise ValueError("exchanges are learned by surrogate from synonyms: set both, or table alone")
        return self

    def incompatibility(self, task: Task) -> str | None:
        if self.surrogate and task.kind != "classification":
            return "its surrogate learns labels, and answers are text"
        return super().incompatibility(task)

    def table_stage(self, build: Builder) -> Stage | None:
        if self.surrogate is None:
            return None
        method = WordSubstitutions(
            sets=("train", "clean"),
            synonyms=build.settings.attack_spec["synonyms"],
            target=self.target_label,
            rate=self.pool_rate,
            warm_up_epochs=self.warm_up_epochs,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            seed=build.settings.seed,
        )
        return build.attack_table(method, "surrogate")
