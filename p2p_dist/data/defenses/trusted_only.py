"""Trusted only: train on the rows that a screening trusts and on nothing else, without a benign trigger.

Ours, not in the paper: the control of P2P on screened rows, whose worth is its gain over this.
"""

from dataclasses import replace
from typing import ClassVar

from p2p_dist.config.builder import Builder
from p2p_dist.config.graph import Stage
from p2p_dist.data.defense import Assumptions, DataDefense, Defended, DefenderView
from p2p_dist.data.example import by_id
from p2p_dist.data.row_counts import RowCounts
from p2p_dist.data.screening import Screening, class_shortage, stop_records
from p2p_dist.errors import UserError


class TrustedOnly(DataDefense):
    """Train on screened rows alone. With two rounds, the model of the first round's rows screens the rows that the
    deployed model is trained on."""

    default_assumptions: ClassVar[Assumptions] = Assumptions(source="ours; the control of P2P on screened rows")

    screening: Screening = Screening()
    """Options of the screening, as P2P's; the first round is shared with it."""

    def assumptions(self) -> Assumptions:
        if self.screening.rounds is None:
            return self.default_assumptions
        return replace(self.default_assumptions, extra_models="the adapter of the first round")

    def shortage(self, counts: RowCounts) -> UserError | None:
        return class_shortage(counts, 1)

    def stages(self, build: Builder, rows: Stage) -> Stage:
        scores = self.screening.score_stages(build, rows, prompted=False)
        return build.evaluated(build.trained(build.defended(rows, scores)), rows)

    def defend_train(self, view: DefenderView) -> Defended:
        trusted = frozenset().union(*self.screening.trusted_ids(view, count=1))
        train = by_id(row for row in view.train if row.id in trusted)
        counts = {"kept": len(train), "clean_rows_used": 0, "screening": stop_records(view)}
        return Defended(train, [], counts, trusted)
