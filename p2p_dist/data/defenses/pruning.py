"""Pruning: merge the attacked adapter into the base and set the least important weights to zero.

magnitude: the smallest weights of every layer. wanda (Sun et al. 2023, arXiv 2306.11695): in every output row the
smallest |weight| * ||input||, over 128 training texts; their labels are not used.
"""

from typing import ClassVar, Literal

from p2p_dist.config.builder import Builder, Training
from p2p_dist.config.graph import Stage
from p2p_dist.config.methods import WeightPruning
from p2p_dist.config.study import Rate
from p2p_dist.data.defense import Assumptions, Defense


class Pruning(Defense):
    """Prune every linear layer but the output head alike, without structure."""

    default_assumptions: ClassVar[Assumptions] = Assumptions(
        source="arXiv 2306.11695; calibrated on training texts, in one pass over the unpruned model"
    )

    method: Literal["magnitude", "wanda"] = "wanda"
    sparsity: Rate = 0.5
    """Share of the weights to set to zero (CROW's baseline: 0.35 by magnitude)."""

    def stages(self, build: Builder, rows: Stage) -> Stage:
        attacked = build.trained(rows)
        prune = WeightPruning(method=self.method, sparsity=self.sparsity)
        pruned = build.trained(rows, Training(merged=attacked, prune=prune, stop_after_steps=0))
        return build.evaluated(pruned, rows)
