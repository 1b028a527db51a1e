"""W2SDefense, weak-to-strong unlearning (Zhao et al. 2024, arXiv 2410.14425).

1. Train a clean teacher.
2. Continue to train the attacked model, the student, to answer and to represent rows as the teacher does: label *
   cross-entropy + soft * KL(teacher | student) + hidden * squared distance of the last hidden states.

Differences from the released code. There the teacher is a BERT tuned on the whole clean training set, the student a
classifier with a new adapter of rank 512, both are compared in class scores, and every token of every student row is
compared with the teacher's state of the last row of the batch. Here the teacher is the run's own base with an adapter
trained on the trusted rows, the student is the attacked adapter, and both are compared in the answer tokens, row by
row.
"""

from typing import Annotated, ClassVar

from pydantic import Field

from p2p_dist.config.builder import Builder, Training
from p2p_dist.config.graph import Stage
from p2p_dist.config.methods import Distillation
from p2p_dist.config.study import Positive
from p2p_dist.data.defense import Assumptions, TrustedRows

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class W2SDefense(TrustedRows):
    """Distil a clean teacher into the attacked model. Weights, temperature, rate and epochs: the released code's."""

    default_assumptions: ClassVar[Assumptions] = Assumptions(
        "ratio x training rows",
        "a teacher adapter",
        source="arXiv 2410.14425; a teacher of the same base, on the trusted rows; the study's LoRA rank",
    )

    label: Weight = 5.0
    """Weight of cross-entropy (original: 5)."""
    soft: Weight = 0.001
    """Weight of KL(teacher | student) (original: 0.001)."""
    hidden: Weight = 0.001
    """Weight of the squared Euclidean distance of the last hidden states (original: 0.001)."""
    temperature: Positive = 2.0
    """Temperature of both distributions in the KL (original: 2)."""
    learning_rate: Positive = 2e-4
    """Learning rate of the student (original: 2e-4)."""
    epochs: Annotated[int, Field(ge=1)] = 5
    """Passes of the student over the trusted rows (original: 5)."""

    def stages(self, build: Builder, rows: Stage) -> Stage:
        """Teacher (step 1), student (step 2)."""
        trusted = build.defended(rows)
        teacher = build.trained(trusted, Training(trusted_base=True))
        attacked = build.trained(rows)
        objective = Distillation(label=self.label, soft=self.soft, hidden=self.hidden, temperature=self.temperature)
        changes = {"learning_rate": self.learning_rate, "num_train_epochs": self.epochs}
        training = Training(start=attacked, objective=objective, changes=changes, teacher=teacher)
        return build.evaluated(build.trained(trusted, training), rows)
