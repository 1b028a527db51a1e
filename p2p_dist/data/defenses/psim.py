"""PSIM (Zhao et al. 2024, arXiv 2402.12168): a second adapter, trained on from the attacked one on random labels, stays
sure only where a backdoor decides; rows of which it is too sure are refused.
"""

from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field

from p2p_dist.config.builder import Builder, Evaluation, Training
from p2p_dist.config.graph import Stage
from p2p_dist.config.methods import ConfidenceRule, LabelScores
from p2p_dist.config.study import Plugin, Positive, Rate, RowsSpec
from p2p_dist.data.defense import Assumptions, DataDefense, Defended, DefenderView
from p2p_dist.data.example import stream


class Psim(DataDefense):
    """A refused clean row counts as wrong, a refused triggered row as no success; the share of both is reported. One
    rule for both suites (the released code treats a confidence of exactly 0.7 as refused in one and as kept in the
    other)."""

    default_assumptions: ClassVar[Assumptions] = Assumptions(
        "rows.reserve, to choose the threshold",
        "a second adapter",
        source="arXiv 2402.12168; LoRA instead of prompt tuning",
    )

    learning_rate: Positive = 2e-5
    """Of the second adapter (original: 2e-5)."""
    epochs: Annotated[int, Field(ge=1)] = 1
    """Passes over the training rows with random labels (original: 1)."""
    above: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Refuse rows of which the second adapter is surer than this (original: 0.7, for two classes); null: choose it."""
    false_rejections: Rate = 0.02
    """Share of the checked rows that the chosen threshold may refuse."""

    def assumptions(self) -> Assumptions:
        return self.default_assumptions if self.above is None else replace(self.default_assumptions, clean_rows="none")

    def incompatibility(self, task: Plugin, attack: Plugin, rows: RowsSpec) -> str | None:
        return (
            None
            if rows.reserve or self.above is not None
            else "PSIM chooses its threshold on checked rows: set rows.reserve, or give one (above)"
        )

    def stages(self, build: Builder, rows: Stage) -> Stage:
        adapter = build.trained(rows)
        unsure = build.trained(
            build.defended(rows),
            Training(start=adapter, changes={"learning_rate": self.learning_rate, "num_train_epochs": self.epochs}),
        )
        judge = build.scored(build.tested(rows), LabelScores(sets=("suites", "reserve")), unsure)
        reject = (
            ConfidenceRule(false_rejections=self.false_rejections)
            if self.above is None
            else ConfidenceRule(above=self.above)
        )
        return build.evaluated(adapter, rows, Evaluation(judge=judge, reject=reject))

    def defend_train(self, view: DefenderView) -> Defended:
        train = [
            replace(row, label=stream(view.seed, "psim.label", row.id).randrange(view.n_classes)) for row in view.train
        ]
        return Defended(sorted(train, key=lambda row: row.id), [], {"random_labels": len(train), "clean_rows_used": 0})
