"""ABL, anti-backdoor learning (Li et al. 2021, arXiv 2110.11571): isolate the rows that are learned first, and unlearn.

1. Score the training rows by a model that has just begun to learn, or by the trained one (`isolate`).
2. Isolate the `share` of rows with the lowest loss on their given label.
3. Unlearn: train the undefended adapter with gradient ascent on the isolated rows, or train again without them
   (`unlearn`).

The premise is that poisoned rows are learned first. `not_trusted` in the manifest counts the isolated rows by origin
and so tests it. Early language models believe clean rows, and the backdoor comes later (docs/findings.md).
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from p2p_dist.config.builder import Builder, Training
from p2p_dist.config.graph import Stage
from p2p_dist.config.methods import Ascent
from p2p_dist.config.score_methods import LabelScores
from p2p_dist.config.study import Positive, Rate
from p2p_dist.data.defense import Assumptions, DataDefense, Defended, DefenderView
from p2p_dist.data.example import Row, by_id, share
from p2p_dist.data.screening import Screening
from p2p_dist.data.screening_stops import stop_records

ISOLATED = "isolated"
"""Phase in which the isolated rows become a training set of their own."""


class Abl(DataDefense):
    """Unlearn the rows that were learned first. Isolation is by the early model of P2P's screening; the local gradient
    ascent and flooding of the original's first stage are not built."""

    default_assumptions: ClassVar[Assumptions] = Assumptions(
        source="arXiv 2110.11571 and its released code (images); early model in place of local gradient ascent, capped "
        "unlearning"
    )

    isolate: Literal["early", "trained"] = "early"
    """Model whose losses isolate rows. early: one that has just begun to learn the task (the premise). trained: the
    undefended adapter."""
    share: Rate = 0.01
    """Rows to isolate, as a share of the training rows (original: 0.01)."""
    within_class: bool = True
    """Isolate this share of every class; false: of all rows together, as the original, whose early model must not lean
    to one class."""
    unlearn: Literal["ascent", "leave_out"] = "ascent"
    """ascent: gradient ascent on the isolated rows from the undefended adapter (the original trains on the other rows
    before). leave_out: train again without them."""
    learning_rate: Positive = 5e-4
    """Learning rate of the ascent (original: 5e-4)."""
    epochs: Annotated[int, Field(ge=1)] = 4
    """Passes of the ascent over the isolated rows (the released code makes four)."""
    cap: Positive = 4.0
    """Cross-entropy from which a row is unlearned; the original has no bound."""
    screening: Screening = Screening()
    """Options of the early model, as P2P's; one round."""

    @model_validator(mode="after")
    def _one_round(self) -> "Abl":
        if self.screening.rounds is not None:
            raise ValueError("ABL screens once: leave out rounds")
        return self

    def stages(self, build: Builder, rows: Stage) -> Stage:
        """Score (step 1), isolate (2), unlearn (3)."""
        attacked = build.trained(rows)
        if self.isolate == "trained":
            scores: dict[str, Stage] = {"trained": build.scored(rows, LabelScores(sets=("train",)), attacked)}
        else:
            scores = {role: build.scored(rows, method) for role, method in self.screening.methods().items()}
        if self.unlearn == "leave_out":
            return build.evaluated(build.trained(build.defended(rows, scores)), rows)
        isolated = build.defended(rows, scores, phase=ISOLATED)
        changes = {"learning_rate": self.learning_rate, "num_train_epochs": self.epochs}
        ascent = Training(start=attacked, objective=Ascent(cap=self.cap), changes=changes)
        return build.evaluated(build.trained(isolated, ascent), rows)

    def defend_train(self, view: DefenderView) -> Defended:
        """The isolated rows (phase `isolated`), or all others."""
        self.screening.require_success(view)
        isolated = self._isolated(view)
        train = by_id(row for row in view.train if (row.id in isolated) == (view.phase == ISOLATED))
        trusted = frozenset(row.id for row in view.train if row.id not in isolated)
        counts: dict[str, Any] = {"kept": len(train), "isolated": len(isolated), "clean_rows_used": 0}
        return Defended(train, [], {**counts, "screening": stop_records(view)}, trusted)

    def _isolated(self, view: DefenderView) -> set[str]:
        """Ids of the rows with the lowest losses (step 2)."""
        losses = _losses(view)
        groups = (
            [[row for row in view.train if row.label == label] for label in sorted({row.label for row in view.train})]
            if self.within_class
            else [list(view.train)]
        )
        return {id_ for group in groups for id_ in self._lowest(group, losses)}

    def _lowest(self, rows: list[Row], losses: dict[str, float]) -> list[str]:
        ranked = sorted((row.id for row in rows if row.id in losses), key=lambda id_: (losses[id_], id_))
        return ranked[: share(self.share, len(rows))]


def _losses(view: DefenderView) -> dict[str, float]:
    """Mean negative log-probability of the given label over the models, by row id."""
    values: dict[str, list[float]] = {}
    for _, scores in sorted(view.scores.items()):
        for id_, line in scores["train"].items():
            values.setdefault(id_, []).append(-float(line["scores"][int(line["label"])]))
    return {id_: sum(of_row) / len(of_row) for id_, of_row in values.items()}
