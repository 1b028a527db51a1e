"""Clean fine-tuning: go on training the attacked adapter on rows that the defender has checked (reference: fine-tuning
as in Fine-Pruning, Liu et al. 2018, arXiv 1805.12185, without the pruning)."""

from typing import Annotated, ClassVar

from pydantic import Field

from p2p_dist.config.builder import Builder, Training
from p2p_dist.config.graph import Stage
from p2p_dist.config.study import Positive
from p2p_dist.data.defense import Assumptions, TrustedRows


class CleanFineTuning(TrustedRows):
    """The cheapest honest rival: exactly the checked rows that P2P is granted, and no benign trigger."""

    default_assumptions: ClassVar[Assumptions] = Assumptions(
        "ratio x training rows", source="arXiv 1805.12185 without pruning"
    )

    learning_rate: Positive | None = None
    """null: the study's."""
    epochs: Annotated[int, Field(ge=1)] = 3
    """Passes over the checked rows."""

    def stages(self, build: Builder, rows: Stage) -> Stage:
        changes = {
            "num_train_epochs": self.epochs,
            **({} if self.learning_rate is None else {"learning_rate": self.learning_rate}),
        }
        tuned = build.trained(build.defended(rows), Training(start=build.trained(rows), changes=changes))
        return build.evaluated(tuned, rows)
