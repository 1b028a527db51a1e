"""CROW, internal consistency regularisation (Min et al. 2024, arXiv 2411.12768): go on training the attacked adapter on
a few checked rows with a term that keeps consecutive layers alike when the input embeddings are perturbed against it.
"""

from typing import Annotated, ClassVar

from pydantic import Field

from p2p_dist.config.builder import Builder, Training
from p2p_dist.config.graph import Stage
from p2p_dist.config.methods import Consistency
from p2p_dist.config.study import Positive, Rate
from p2p_dist.data.defense import Assumptions, TrustedRows


class Crow(TrustedRows):
    """The settings of the released code: weight 5.5, step 0.1, learning rate 1e-3, 5 epochs, batches of 8; 100 rows
    there."""

    default_assumptions: ClassVar[Assumptions] = Assumptions(
        "ratio x training rows", source="arXiv 2411.12768; on the attacked adapter instead of a new one"
    )

    ratio: Rate = 0.05
    """Checked rows as a share of the training rows (original: 100 rows)."""
    weight: Positive = 5.5
    """Of the consistency term."""
    epsilon: Positive = 0.1
    """Step of the perturbation of the input embeddings."""
    learning_rate: Positive = 1e-3
    epochs: Annotated[int, Field(ge=1)] = 5
    """Passes over the checked rows."""
    batch: Annotated[int, Field(ge=1)] = 8
    """Rows per step (original: 2, over 4 accumulation steps)."""

    def stages(self, build: Builder, rows: Stage) -> Stage:
        changes = {"learning_rate": self.learning_rate, "num_train_epochs": self.epochs, "global_batch": self.batch}
        objective = Consistency(weight=self.weight, epsilon=self.epsilon)
        tuned = build.trained(
            build.defended(rows), Training(start=build.trained(rows), objective=objective, changes=changes)
        )
        return build.evaluated(tuned, rows)
