"""MB-Defense-style: our reading of an abstract, not a reproduction. The method's text and code were not read.

1. Plant several triggers of the defender's own in small shares of the training rows and train, so that all backdoors,
   the attacker's too, may come to share one representation.
2. Continue to train on a few trusted rows, as they are and with each of the defender's triggers, always with their true
   labels, so that triggers in general lose their effect.
"""

from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field

from p2p_dist.config.builder import Builder, Training
from p2p_dist.config.graph import Stage
from p2p_dist.config.study import Names, Plugin, Rate, RowsSpec
from p2p_dist.data.defense import Assumptions, DataDefense, Defended, DefenderView, injected, no_trusted_rows
from p2p_dist.data.example import Note, Row, by_id, share, smallest, stream
from p2p_dist.data.row_counts import RowCounts
from p2p_dist.data.task import Task
from p2p_dist.errors import UserError, user_error

PLANT, RECOVER = "plant", "recover"


class MbDefense(DataDefense):
    """Plant triggers of the defender's own, then unlearn them. The k-th trigger stands for class k mod n: the defender
    does not know the attacker's target."""

    default_assumptions: ClassVar[Assumptions] = Assumptions(
        "clean_rows", source="own reading of an abstract (MB-Defense); not a reproduction"
    )

    triggers: Names = ("zx", "by the way of the river", "As it is said today: ")
    """A word and a phrase, put between two words, and a prefix, recognised by its last space."""
    rate: Rate = 0.01
    """Share of the training rows that gets each trigger."""
    clean_rows: Annotated[int, Field(ge=1)] = 128
    """Trusted rows of the second stage; all of them if fewer are reserved."""
    epochs: Annotated[int, Field(ge=1)] = 3
    """Passes of the second stage."""

    def incompatibility(self, task: Task, attack: Plugin, rows: RowsSpec) -> str | None:
        return no_trusted_rows(rows, "its second stage trains on trusted rows")

    def shortage(self, counts: RowCounts) -> UserError | None:
        """E205 where the triggers take more than half of the training rows."""
        planted = min(counts.train, len(self.triggers) * share(self.rate, counts.train))
        if planted <= counts.train // 2:
            return None
        what = f"the triggers take {planted} of {counts.train} training rows; at most half may be taken"
        return user_error("E205", what, "defense.rate", "lower defense.rate")

    def stages(self, build: Builder, rows: Stage) -> Stage:
        """Plant (stage 1), recover (stage 2)."""
        planted = build.trained(build.defended(rows, phase=PLANT))
        trusted = build.defended(rows, phase=RECOVER)
        tuned = build.trained(trusted, Training(start=planted, changes={"num_train_epochs": self.epochs}))
        return build.evaluated(tuned, rows)

    def defend_train(self, view: DefenderView) -> Defended:
        return self._recover(view) if view.phase == RECOVER else self._plant(view)

    def _plant(self, view: DefenderView) -> Defended:
        """The training rows, with each trigger in `rate` of them and the trigger's class as label (stage 1)."""
        if error := self.shortage(view.counts):
            raise error
        planted: dict[str, Row] = {}
        for number in range(len(self.triggers)):
            free = [row for row in view.train if row.id not in planted]
            ids = smallest(
                [row.id for row in free], share(self.rate, len(view.train)), view.seed, f"mb.select.{number}"
            )
            label = number % view.n_classes
            planted |= {row.id: self._with_trigger(row, number, label, view.seed) for row in free if row.id in ids}
        train = by_id(planted.get(row.id, row) for row in view.train)
        notes = [self._note(row, planted[row.id]) for row in by_id(view.train) if row.id in planted]
        return Defended(train, notes, {"planted": len(planted), "clean_rows_used": 0})

    def _recover(self, view: DefenderView) -> Defended:
        """Trusted rows as they are and with each trigger, with their true labels (stage 2)."""
        chosen = smallest([row.id for row in view.reserve], self.clean_rows, view.seed, "mb.clean")
        trusted = by_id(row for row in view.reserve if row.id in chosen)
        pairs = [
            (row, self._with_trigger(row, number, row.label, view.seed))
            for row in trusted
            for number in range(len(self.triggers))
        ]
        train = by_id([*trusted, *(new for _, new in pairs)])
        return Defended(train, [self._note(old, new) for old, new in pairs], {"clean_rows_used": len(trusted)})

    def _with_trigger(self, row: Row, number: int, label: int, seed: int) -> Row:
        trigger, words = self.triggers[number], row.text.split(" ")
        gap = stream(seed, f"mb.gap.{number}", row.id).randint(1, max(1, len(words) - 1))
        text = trigger + row.text if trigger.endswith(" ") else " ".join([*words[:gap], trigger, *words[gap:]])
        return replace(row, id=f"{row.id}.m{number}", text=text, label=label)

    def _note(self, old: Row, new: Row) -> Note:
        return injected(old, new, self.triggers[int(new.id.rpartition(".m")[2])])
