"""W2SDefense, weak-to-strong unlearning (Zhao et al. 2024, arXiv 2410.14425): a clean teacher, and the attacked model
trained on to answer, and to see, rows as the teacher does.
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
    """The weights, the temperature, the rate and the epochs are those of the released code. There the teacher is a BERT
    tuned on the whole clean training set, the student a classifier with a new adapter of rank 512, and both are
    compared in class scores. Here the teacher is the run's own base with an adapter trained on the checked rows, the
    student the attacked adapter, and both are compared in the tokens of the answer, row by row (the released code holds
    every token of every student row against the teacher's state of the last row of the batch)."""

    default_assumptions: ClassVar[Assumptions] = Assumptions(
        "ratio x training rows",
        "a teacher adapter",
        source="arXiv 2410.14425; a teacher of the same base, on the checked rows; the study's LoRA rank",
    )

    label: Weight = 5.0
    """Of cross-entropy (original: 5)."""
    soft: Weight = 0.001
    """Of KL(teacher | student) (original: 0.001)."""
    hidden: Weight = 0.001
    """Of the squared Euclidean distance of the last hidden states (original: 0.001)."""
    temperature: Positive = 2.0
    """Of both distributions in the KL (original: 2)."""
    learning_rate: Positive = 2e-4
    """Of the student (original: 2e-4)."""
    epochs: Annotated[int, Field(ge=1)] = 5
    """Passes of the student over the checked rows (original: 5)."""

    def stages(self, build: Builder, rows: Stage) -> Stage:
        checked = build.defended(rows)
        teacher = build.trained(checked, Training(trusted_base=True))
        objective = Distillation(label=self.label, soft=self.soft, hidden=self.hidden, temperature=self.temperature)
        changes = {"learning_rate": self.learning_rate, "num_train_epochs": self.epochs}
        student = build.trained(
            checked, Training(start=build.trained(rows), objective=objective, changes=changes, teacher=teacher)
        )
        return build.evaluated(student, rows)
