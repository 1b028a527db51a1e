"""LETHE-style (arXiv 2508.21004; released code read): dilute the attacked model with a clean one.

1. Train a clean model from the same base on trusted rows.
2. Add the updates of the attacked and the clean adapter, weighted.

The sum is exact, in an adapter of both ranks together; averages of the A and of the B matrices would differ by cross
terms. The released code merges full models, also by TIES, SLERP and stacked layers, and appends definitions of key
words to every prompt (its external part); none of these is built.
"""

from typing import Annotated, ClassVar

from pydantic import Field

from p2p_dist.config.builder import Builder, Training
from p2p_dist.config.graph import Stage
from p2p_dist.config.methods import WeightedSum
from p2p_dist.config.study import Positive
from p2p_dist.data.defense import Assumptions, TrustedRows


class Lethe(TrustedRows):
    """Merge the attacked adapter with one that was trained on trusted rows. The weight 1 is `clean_only`."""

    default_assumptions: ClassVar[Assumptions] = Assumptions(
        "ratio x training rows",
        "a clean adapter",
        source="arXiv 2508.21004 and its released code; linear merge of adapters alone, without evidence in the prompt",
    )

    clean: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Weight of the clean adapter; the attacked one has the rest (original: 0.5)."""
    epochs: Annotated[int, Field(ge=1)] = 4
    """Passes of the clean training over the trusted rows (original: 4)."""
    learning_rate: Positive | None = None
    """Learning rate of the clean training; null: the study's (original: 2e-4, constant)."""

    def stages(self, build: Builder, rows: Stage) -> Stage:
        """Clean adapter (step 1), sum (2)."""
        learning_rate = {} if self.learning_rate is None else {"learning_rate": self.learning_rate}
        changes = {"num_train_epochs": self.epochs, **learning_rate}
        clean = build.trained(build.defended(rows), Training(trusted_base=True, changes=changes))
        attacked = build.trained(rows)
        lora = attacked.spec["train"]["lora"]
        both = Training(
            start=attacked,
            plus=clean,
            weighted=WeightedSum(start=1 - self.clean, plus=self.clean),
            changes={"lora": {"r": 2 * lora["r"], "alpha": 2 * lora["alpha"]}},
            stop_after_steps=0,
        )
        return build.evaluated(build.trained(rows, both), rows)
