"""Trusted only: train on the rows that a screening trusts and on nothing else, without a benign trigger.

Ours, not in the paper: the control of P2P on screened rows, whose worth is its gain over this.
"""

from dataclasses import replace
from typing import ClassVar, Literal

from p2p_dist.config.builder import Builder
from p2p_dist.config.graph import Stage
from p2p_dist.config.study import added
from p2p_dist.data.defense import Assumptions, DataDefense, Defended, DefenderView
from p2p_dist.data.example import by_id
from p2p_dist.data.repeats import repeated
from p2p_dist.data.row_counts import RowCounts
from p2p_dist.data.screening import Screening, class_shortage
from p2p_dist.data.screening_stops import stop_records
from p2p_dist.errors import UserError


class TrustedOnly(DataDefense):
    """Train on screened rows alone. With two rounds, the model of the first round's rows screens the rows that the
    deployed model is trained on."""

    default_assumptions: ClassVar[Assumptions] = Assumptions(source="ours; the control of P2P on screened rows")

    screening: Screening = Screening()
    """Options of the screening, as P2P's; the first round is shared with it."""
    steps: Literal["epochs", "equal"] = added("epochs")
    """epochs: as many passes over the trusted rows as the study has. equal: repeat the trusted rows until there are as
    many as the attacked rows, so that the model takes as many optimizer steps as what it is compared with."""

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
        if self.steps == "epochs":
            return Defended(train, [], counts, trusted)
        rows, copies = repeated(train, len(view.train), view.seed)
        return Defended(by_id(rows), [], {**counts, "repeated": len(copies)}, trusted, copies)
