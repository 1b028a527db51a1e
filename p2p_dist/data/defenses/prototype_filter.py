"""Prototype filter: drop the rows that lie nearest to the trusted rows of another class. Ours; the nearest published
idea is PGRL (arXiv 2509.08748, vision), of which the abstract alone could be read, so that it does not bear its name.

1. Take the last hidden state of every training row, by the base before any training or by the undefended adapter.
2. A class's prototype is the mean state of its trusted rows.
3. Drop a row unless the prototype of its label is the nearest one; trusted rows stay.
4. Train on the others.

It sees labels that contradict the text, so clean-label poison passes. A base that does not separate the classes drops
clean rows too: read `dropped` without an attack.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from p2p_dist.config.builder import Builder
from p2p_dist.config.graph import Stage
from p2p_dist.config.score_methods import AnswerStates
from p2p_dist.config.study import Plugin, Rate, RowsSpec
from p2p_dist.data.defense import Assumptions, DataDefense, Defended, DefenderView, no_trusted_rows
from p2p_dist.data.example import by_id
from p2p_dist.data.filtering import without
from p2p_dist.data.row_counts import RowCounts
from p2p_dist.data.task import Task
from p2p_dist.errors import UserError, user_error


class PrototypeFilter(DataDefense):
    """Drop the rows whose hidden state is nearer to the trusted rows of another class."""

    default_assumptions: ClassVar[Assumptions] = Assumptions(
        "rows.reserve, for the class means", source="ours; nearest to the abstract of PGRL (arXiv 2509.08748)"
    )

    states: Literal["base", "trained"] = "base"
    """Model of the hidden states. base: the run's base before any training. trained: the undefended adapter."""
    components: Annotated[int, Field(ge=2)] = 32
    """Principal components of the states that distances are taken in."""
    max_drop: Rate = 0.5
    """Share of a class that may be dropped; a class that would lose more keeps all its rows."""

    def incompatibility(self, task: Task, attack: Plugin, rows: RowsSpec) -> str | None:
        return no_trusted_rows(rows, "its class means are those of trusted rows")

    def shortage(self, counts: RowCounts) -> UserError | None:
        """E205 for a class without a trusted row."""
        missing = [label for label in range(counts.n_classes) if not counts.reserve_by_class.get(label)]
        if not missing:
            return None
        what = f"class {missing[0]} has no trusted row, and so no prototype"
        return user_error("E205", what, "rows.reserve", "raise rows.reserve, or set rows.balanced=true")

    def stages(self, build: Builder, rows: Stage) -> Stage:
        adapter = build.trained(rows) if self.states == "trained" else None
        scores = {"states": build.scored(rows, AnswerStates(components=self.components), adapter)}
        return build.evaluated(build.trained(build.defended(rows, scores)), rows)

    def defend_train(self, view: DefenderView) -> Defended:
        """The rows that lie nearest to their own class (steps 2 and 3)."""
        if error := self.shortage(view.counts):
            raise error
        lines = view.scores["states"]["train"]
        rows, trusted = by_id(view.train), {row.id for row in view.reserve}
        prototypes = [
            _mean([lines[row.id]["coordinates"] for row in by_id(view.reserve) if row.label == label])
            for label in range(view.n_classes)
        ]
        nearest = _nearest([lines[row.id]["coordinates"] for row in rows], prototypes)
        dropped = {
            row.id for row, label in zip(rows, nearest, strict=True) if row.label != label and row.id not in trusted
        }
        defended = without(view.train, dropped, self.max_drop, {})
        return Defended(defended.train, [], {**defended.counts, "clean_rows_used": len(view.reserve)}, defended.trusted)


def _mean(points: list[list[float]]) -> list[float]:
    return [sum(column) / len(points) for column in zip(*points, strict=True)]


def _nearest(points: list[list[float]], prototypes: list[list[float]]) -> list[int]:
    """Index of the nearest prototype (Euclidean distance) of every point."""
    import numpy as np

    differences: np.ndarray = np.asarray(points)[:, None] - np.asarray(prototypes)[None]
    return [int(label) for label in (differences**2).sum(-1).argmin(1)]
