"""DUP-style (arXiv 2508.01647; released code read): detect training rows whose hidden states are unusual, and unlearn
them.

1. Score the training rows by the attacked model's hidden states, against trusted rows (`scores.clean_distance`).
2. Suspect the `share` of every class with the largest distances.
3. Continue to train the attacked adapter on the trusted rows, and on the suspects with every label alike.

Differences from the released code. There the rows to unlearn come from a set of which half is poisoned, training
repeats until the attack success that a defender cannot measure is low, and the distance to the attacked model is
maximised without bound; its weights and rates were not found. Here suspects are training rows, steps are fixed, and a
suspect is unlearned once the model gives all labels the same probability.
"""

from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field

from p2p_dist.config.builder import Builder, Training
from p2p_dist.config.graph import Stage
from p2p_dist.config.score_methods import CleanDistance
from p2p_dist.config.study import Plugin, Positive, Rate, RowsSpec
from p2p_dist.data.defense import Assumptions, Defended, DefenderView, TrustedRows
from p2p_dist.data.example import Kind, Row, by_id, share, stream
from p2p_dist.data.task import Task


class Dup(TrustedRows):
    """Unlearn the training rows that the attacked model represents in an unusual way. Its fair control is `clean_ft` at
    the same `ratio` and `epochs`."""

    kinds: ClassVar[tuple[Kind, ...]] = ("classification",)
    default_assumptions: ClassVar[Assumptions] = Assumptions(
        "ratio x training rows, and clean_rows to compare with",
        source="arXiv 2508.01647 and its released code; bounded unlearning, suspects among the training rows",
    )

    clean_rows: Annotated[int, Field(ge=CleanDistance.least)] = 200
    """Trusted rows that the states are compared with; all of them if fewer are reserved (original: 200)."""
    layers: Annotated[int, Field(ge=1)] = 3
    """Layers that the distance is averaged over (original: 3)."""
    spectrum: Rate = 0.1
    """Weight of the change between layers beside the distance (original: 0.1)."""
    share: Rate = 0.05
    """Suspects as a share of every class (original: the top 20 % of a set with half poison)."""
    labels: Annotated[int, Field(ge=2)] = 8
    """Labels that a suspect is repeated with; all of them where the task has no more."""
    learning_rate: Positive | None = None
    """null: the study's."""
    epochs: Annotated[int, Field(ge=1)] = 3
    """Passes over the trusted rows and the suspects."""

    def incompatibility(self, task: Task, attack: Plugin, rows: RowsSpec) -> str | None:
        if 0 < rows.reserve < CleanDistance.least:
            use = f"it compares hidden states with those of {CleanDistance.least} trusted rows or more"
            return f"{use}, and rows.reserve is {rows.reserve}"
        return super().incompatibility(task, attack, rows)

    def stages(self, build: Builder, rows: Stage) -> Stage:
        """Score (step 1), suspect (2), unlearn (3)."""
        attacked = build.trained(rows)
        method = CleanDistance(rows=self.clean_rows, layers=self.layers, spectrum=self.spectrum)
        unlearned = build.defended(rows, {"states": build.scored(rows, method, attacked)})
        learning_rate = {} if self.learning_rate is None else {"learning_rate": self.learning_rate}
        changes = {"num_train_epochs": self.epochs, **learning_rate}
        return build.evaluated(build.trained(unlearned, Training(start=attacked, changes=changes)), rows)

    def defend_train(self, view: DefenderView) -> Defended:
        """The trusted rows, and every suspect once for each of several labels (steps 2 and 3)."""
        trusted = super().defend_train(view).train
        suspects = self._suspects(view, {row.id for row in view.reserve})
        relabelled = [copy for row in suspects for copy in self._with_every_label(row, view)]
        copies = {copy.id: source for copy in relabelled if (source := copy.id.partition("/")[0]) != copy.id}
        ids = {row.id for row in suspects}
        counts = {"kept": len(trusted), "suspects": len(suspects), "clean_rows_used": len(view.reserve)}
        passed = frozenset(row.id for row in view.train if row.id not in ids)
        return Defended(by_id([*trusted, *relabelled]), [], counts, passed, copies)

    def _suspects(self, view: DefenderView, trusted: set[str]) -> list[Row]:
        """The rows of every class with the largest distances, without trusted ones."""
        distances = {id_: float(line["distance"]) for id_, line in view.scores["states"]["train"].items()}
        suspects: list[Row] = []
        for label in sorted({row.label for row in view.train}):
            of_class = [row for row in view.train if row.label == label]
            ranked = sorted(
                (row for row in of_class if row.id not in trusted), key=lambda row: (-distances[row.id], row.id)
            )
            suspects += ranked[: share(self.share, len(of_class))]
        return by_id(suspects)

    def _with_every_label(self, row: Row, view: DefenderView) -> list[Row]:
        """The row with every label, or with `labels` of them by draw; the first keeps its id."""
        labels = list(range(view.n_classes))
        if view.n_classes > self.labels:
            labels = sorted(stream(view.seed, "dup.labels", row.id).sample(labels, self.labels))
        ids = [row.id, *(f"{row.id}/{number}" for number in range(1, len(labels)))]
        return [replace(row, id=id_, label=label) for id_, label in zip(ids, labels, strict=True)]
