"""CROW, internal consistency regularisation (Min et al. 2024, arXiv 2411.12768).

1. Start from the attacked adapter (original: a new one) and a few trusted rows.
2. Perturb the input embeddings by a step of size epsilon along the sign of the consistency term's gradient.
3. Add to the cross-entropy weight * mean(1 - cos) of consecutive layers' hidden states at the perturbed input.

Steps 2 and 3 are the objective `consistency` (`training.objectives`).
"""

from typing import Annotated, ClassVar

from pydantic import Field

from p2p_dist.config.builder import Builder, Training
from p2p_dist.config.graph import Stage
from p2p_dist.config.methods import Consistency
from p2p_dist.config.study import Positive, Rate
from p2p_dist.data.defense import Assumptions, TrustedRows


class Crow(TrustedRows):
    """Continue to train the attacked adapter with a penalty on inconsistent layers. Defaults: the released code's."""

    default_assumptions: ClassVar[Assumptions] = Assumptions(
        "ratio x training rows", source="arXiv 2411.12768; on the attacked adapter instead of a new one"
    )

    ratio: Rate = 0.05
    """Trusted rows as a share of the training rows (original: 100 rows)."""
    weight: Positive = 5.5
    """Weight of the consistency term."""
    epsilon: Positive = 0.1
    """Step of the perturbation of the input embeddings."""
    learning_rate: Positive = 1e-3
    epochs: Annotated[int, Field(ge=1)] = 5
    """Passes over the trusted rows."""
    batch: Annotated[int, Field(ge=1)] = 8
    """Rows per step (original: 2, over 4 accumulation steps)."""

    def stages(self, build: Builder, rows: Stage) -> Stage:
        trusted, attacked = build.defended(rows), build.trained(rows)
        objective = Consistency(weight=self.weight, epsilon=self.epsilon)
        changes = {"learning_rate": self.learning_rate, "num_train_epochs": self.epochs, "global_batch": self.batch}
        tuned = build.trained(trusted, Training(start=attacked, objective=objective, changes=changes))
        return build.evaluated(tuned, rows)
