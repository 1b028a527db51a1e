"""The control of P2P on screened rows: train on the rows that a screening trusts and on nothing else, with no benign
trigger at all.

Not in the paper; ours. What P2P on screened rows is worth is what it does beyond this.
"""

from dataclasses import replace
from typing import ClassVar

from p2p_dist.config.builder import Builder
from p2p_dist.config.graph import Stage
from p2p_dist.config.methods import LabelScores
from p2p_dist.data.defense import Assumptions, DataDefense, Defended, DefenderView
from p2p_dist.data.screening import AGAIN, Screening, stops


class TrustedOnly(DataDefense):
    """As `clean_only` is for checked rows. With two rounds, the model of the rows that are trusted first vouches for
    those that the deployed one is trained on."""

    default_assumptions: ClassVar[Assumptions] = Assumptions(source="ours; the control of P2P on screened rows")

    screening: Screening = Screening()
    """As P2P's, with which it shares the first round."""

    def assumptions(self) -> Assumptions:
        return (
            replace(self.default_assumptions, extra_models="the adapter of the first round")
            if self.screening.rounds
            else self.default_assumptions
        )

    def stages(self, build: Builder, rows: Stage) -> Stage:
        scores = {role: build.scored(rows, method) for role, method in self.screening.methods().items()}
        if self.screening.rounds:
            model = build.trained(build.defended(rows, scores, changes={"screening": self.screening.once()}))
            scores = {AGAIN: build.scored(rows, LabelScores(sets=("train",)), model)}
        return build.evaluated(build.trained(build.defended(rows, scores)), rows)

    def defend_train(self, view: DefenderView) -> Defended:
        kept = frozenset().union(*self.screening.chosen(view, wanted=1))
        train = sorted((row for row in view.train if row.id in kept), key=lambda row: row.id)
        return Defended(train, [], {"kept": len(train), "clean_rows_used": 0, "screening": stops(view)}, kept)
