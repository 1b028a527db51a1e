"""Fine-pruning (Liu et al. 2018, arXiv 1805.12185): merge the attacked adapter, prune the base, then train a fresh
adapter on rows that the defender has checked."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from p2p_dist.config.builder import Builder, Training
from p2p_dist.config.graph import Stage
from p2p_dist.config.methods import WeightPruning
from p2p_dist.config.study import Rate
from p2p_dist.data.defense import Assumptions, TrustedRows


class FinePruning(TrustedRows):
    """Single weights are pruned, by Wanda or magnitude; the original prunes channels of a vision model. Zeros may come
    back through the adapter."""

    default_assumptions: ClassVar[Assumptions] = Assumptions(
        "ratio x training rows", source="arXiv 1805.12185; weights instead of channels"
    )

    method: Literal["magnitude", "wanda"] = "wanda"
    sparsity: Rate = 0.35
    """Share of the weights that is set to zero."""
    epochs: Annotated[int, Field(ge=1)] = 3
    """Passes over the checked rows."""

    def stages(self, build: Builder, rows: Stage) -> Stage:
        prune = WeightPruning(method=self.method, sparsity=self.sparsity)
        tuned = build.trained(
            build.defended(rows),
            Training(merged=build.trained(rows), prune=prune, changes={"num_train_epochs": self.epochs}),
        )
        return build.evaluated(tuned, rows)
