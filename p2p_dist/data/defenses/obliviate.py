"""Obliviate-style (Kim et al. 2025, arXiv 2409.14119; released code read): train with amplified adapter norms.

1. Fold the attacker's adapter into the base where weights were poisoned (`via: weights`).
2. Train a fresh adapter with cross-entropy minus `weight` times the sum of the norms of its matrices, so that it drowns
   what the base has learned before.

The original is for poisoned encoders and clean rows. It also penalises the attention of the first token; in a causal
model that token sees itself alone, its attention is 1, and the penalty has no gradient, so it is not built. The
original's norms are unbounded; here each counts up to `limit`.
"""

from typing import ClassVar

from p2p_dist.config.builder import Builder, Training
from p2p_dist.config.graph import Stage
from p2p_dist.config.methods import Amplification
from p2p_dist.config.study import Positive
from p2p_dist.data.defense import Assumptions, Defense


class Obliviate(Defense):
    """Amplify the adapter while it is trained. On poisoned rows it amplifies the backdoor as well: read it with `via:
    weights`."""

    default_assumptions: ClassVar[Assumptions] = Assumptions(
        source="arXiv 2409.14119 and its released code (encoders); amplification alone, bounded"
    )

    weight: Positive = 3e-3
    """Weight of the norms (original: 3e-3 for RoBERTa on SST-2)."""
    limit: Positive = 10.0
    """Norm of a matrix above which it is not amplified any more (ours)."""

    def stages(self, build: Builder, rows: Stage) -> Stage:
        objective = Amplification(weight=self.weight, limit=self.limit)
        return build.evaluated(build.trained(rows, Training(merged=build.start, objective=objective)), rows)
