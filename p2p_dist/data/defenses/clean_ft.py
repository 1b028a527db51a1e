"""Clean fine-tuning: continue to train the attacked adapter on trusted rows (Fine-Pruning, Liu et al. 2018, arXiv
1805.12185, without the pruning)."""

from typing import Annotated, ClassVar

from pydantic import Field

from p2p_dist.config.builder import Builder, Training
from p2p_dist.config.graph import Stage
from p2p_dist.config.study import Positive
from p2p_dist.data.defense import Assumptions, TrustedRows


class CleanFineTuning(TrustedRows):
    """Fine-tune on the trusted rows that P2P is granted, without a benign trigger: the cheapest fair rival."""

    default_assumptions: ClassVar[Assumptions] = Assumptions(
        "ratio x training rows", source="arXiv 1805.12185 without pruning"
    )

    learning_rate: Positive | None = None
    """null: the study's."""
    epochs: Annotated[int, Field(ge=1)] = 3
    """Passes over the trusted rows."""

    def stages(self, build: Builder, rows: Stage) -> Stage:
        trusted, attacked = build.defended(rows), build.trained(rows)
        learning_rate = {} if self.learning_rate is None else {"learning_rate": self.learning_rate}
        changes = {"num_train_epochs": self.epochs, **learning_rate}
        return build.evaluated(build.trained(trusted, Training(start=attacked, changes=changes)), rows)
