"""PSIM (Zhao et al. 2024, arXiv 2402.12168): reject test rows of which a model trained on random labels is confident.

1. Continue to train the attacked adapter, as a second adapter, on the training rows with random labels. It stays
   confident only where a backdoor decides.
2. Take its highest label probability on each test row as the confidence.
3. Reject rows whose confidence is above a threshold; answer the others with the attacked adapter.
"""

from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field

from p2p_dist.config.builder import Builder, Evaluation, Training
from p2p_dist.config.graph import Stage
from p2p_dist.config.methods import ConfidenceRule
from p2p_dist.config.score_methods import LabelScores
from p2p_dist.config.study import Plugin, Positive, Rate, RowsSpec
from p2p_dist.data.defense import Assumptions, DataDefense, Defended, DefenderView, no_known_rows
from p2p_dist.data.example import by_id, stream
from p2p_dist.data.task import Task


class Psim(DataDefense):
    """Reject suspicious test rows. A rejected clean row counts as wrong, a rejected triggered row as no success; the
    rejected shares are reported. One rule holds for both suites (the released code rejects a confidence of exactly 0.7
    in one and not in the other)."""

    default_assumptions: ClassVar[Assumptions] = Assumptions(
        "rows.reserve, to choose the threshold",
        "a second adapter",
        source="arXiv 2402.12168; LoRA instead of prompt tuning",
    )

    learning_rate: Positive = 2e-5
    """Learning rate of the second adapter (original: 2e-5)."""
    epochs: Annotated[int, Field(ge=1)] = 1
    """Passes over the training rows with random labels (original: 1)."""
    above: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Threshold of the confidence (original: 0.7, for two classes); null: choose it on trusted rows."""
    false_rejections: Rate = 0.02
    """Share of the trusted rows that the chosen threshold may reject."""

    def assumptions(self) -> Assumptions:
        if self.above is None:
            return self.default_assumptions
        return replace(self.default_assumptions, clean_rows="none")

    def incompatibility(self, task: Task, attack: Plugin, rows: RowsSpec) -> str | None:
        return (
            None
            if self.above is not None
            else no_known_rows(rows, "PSIM chooses its threshold on trusted or held-out rows")
        )

    def stages(self, build: Builder, rows: Stage) -> Stage:
        """The second adapter (step 1), confidences (2) and the rule by which rows are rejected (3)."""
        attacked = build.trained(rows)
        changes = {"learning_rate": self.learning_rate, "num_train_epochs": self.epochs}
        second = build.trained(build.defended(rows), Training(start=attacked, changes=changes))
        confidences = build.scored(build.tested(rows), LabelScores(sets=("suites", "reserve")), second)
        reject = (
            ConfidenceRule(false_rejections=self.false_rejections)
            if self.above is None
            else ConfidenceRule(above=self.above)
        )
        return build.evaluated(attacked, rows, Evaluation(judge=confidences, reject=reject))

    def defend_train(self, view: DefenderView) -> Defended:
        """The training rows with random labels (step 1)."""
        train = by_id(
            replace(row, label=stream(view.seed, "psim.label", row.id).randrange(view.n_classes)) for row in view.train
        )
        return Defended(train, [], {"random_labels": len(train), "clean_rows_used": 0})
