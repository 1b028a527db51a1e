"""Fine-pruning (Liu et al. 2018, arXiv 1805.12185, section 4).

1. Merge the attacked adapter into the base.
2. Prune the merged base.
3. Fine-tune on trusted rows, here with a fresh adapter.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from p2p_dist.config.builder import Builder, Training
from p2p_dist.config.graph import Stage
from p2p_dist.config.methods import WeightPruning
from p2p_dist.config.study import Rate
from p2p_dist.data.defense import Assumptions, TrustedRows


class FinePruning(TrustedRows):
    """Prune single weights, by Wanda or magnitude, and fine-tune; the original prunes channels of a vision model. The
    adapter may change weights that were set to zero."""

    default_assumptions: ClassVar[Assumptions] = Assumptions(
        "ratio x training rows", source="arXiv 1805.12185; weights instead of channels"
    )

    method: Literal["magnitude", "wanda"] = "wanda"
    sparsity: Rate = 0.35
    """Share of the weights to set to zero."""
    epochs: Annotated[int, Field(ge=1)] = 3
    """Passes over the trusted rows."""

    def stages(self, build: Builder, rows: Stage) -> Stage:
        trusted, attacked = build.defended(rows), build.trained(rows)
        prune = WeightPruning(method=self.method, sparsity=self.sparsity)
        changes = {"num_train_epochs": self.epochs}
        return build.evaluated(build.trained(trusted, Training(merged=attacked, prune=prune, changes=changes)), rows)
