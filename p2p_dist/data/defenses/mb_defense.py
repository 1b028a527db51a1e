"""MB-Defense-style: our reading of an abstract, not a reproduction. The method's text and code were not read.

Stage 1 plants several triggers of the defender's own in small shares of the training rows, so that all backdoors, the
attacker's too, may come to share one representation. Stage 2 goes on training on a few checked rows, as they are and
with each of the defender's triggers, always with their true labels, so that triggers in general lose their effect.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field

from p2p_dist.config.builder import Builder, Training
from p2p_dist.config.graph import Stage
from p2p_dist.config.study import Names, Plugin, Rate, RowsSpec
from p2p_dist.data.defense import Assumptions, DataDefense, Defended, DefenderView
from p2p_dist.data.example import Note, Row, share, smallest, stream
from p2p_dist.errors import user_error

PLANT, RECOVER = "plant", "recover"


class MbDefense(DataDefense):
    """The k-th trigger stands for class k mod n: the defender does not know which class the attacker wants."""

    default_assumptions: ClassVar[Assumptions] = Assumptions(
        "clean_rows", source="own reading of an abstract (MB-Defense); not a reproduction"
    )

    triggers: Names = ("zx", "by the way of the river", "As it is said today: ")
    """A word, a phrase (both put between two words), and a prefix (recognised by its last space)."""
    rate: Rate = 0.01
    """Share of the training rows that gets each trigger."""
    clean_rows: Annotated[int, Field(ge=1)] = 128
    """Checked rows of the second stage, or all there are if fewer."""
    epochs: Annotated[int, Field(ge=1)] = 3
    """Passes of the second stage."""

    def incompatibility(self, task: Plugin, attack: Plugin, rows: RowsSpec) -> str | None:
        return (
            None
            if rows.reserve
            else "its second stage trains on rows that the defender has checked, and rows.reserve is 0"
        )

    def stages(self, build: Builder, rows: Stage) -> Stage:
        planted = build.trained(build.defended(rows, phase=PLANT))
        tuned = build.trained(
            build.defended(rows, phase=RECOVER), Training(start=planted, changes={"num_train_epochs": self.epochs})
        )
        return build.evaluated(tuned, rows)

    def defend_train(self, view: DefenderView) -> Defended:
        if view.phase == RECOVER:
            return self._recover(view)
        taken: set[str] = set()
        new: dict[str, Row] = {}
        for number, trigger in enumerate(self.triggers):
            free = [row.id for row in view.train if row.id not in taken]
            chosen = smallest(free, share(self.rate, len(view.train)), view.seed, f"mb.select.{number}")
            taken |= chosen
            new |= {
                row.id: self._with(row, trigger, number, number % view.n_classes, view.seed)
                for row in view.train
                if row.id in chosen
            }
        if len(taken) > len(view.train) // 2:
            raise user_error(
                "E205", f"the triggers take {len(taken)} of {len(view.train)} rows", "defense.rate", "a lower rate"
            )
        notes = [self._note(row, new[row.id]) for row in sorted(view.train, key=lambda row: row.id) if row.id in new]
        train = sorted((new.get(row.id, row) for row in view.train), key=lambda row: row.id)
        return Defended(train, notes, {"planted": len(new), "clean_rows_used": 0})

    def _recover(self, view: DefenderView) -> Defended:
        chosen = smallest([row.id for row in view.reserve], self.clean_rows, view.seed, "mb.clean")
        clean = sorted((row for row in view.reserve if row.id in chosen), key=lambda row: row.id)
        pairs = [
            (row, self._with(row, trigger, number, row.label, view.seed))
            for row in clean
            for number, trigger in enumerate(self.triggers)
        ]
        train = sorted([*clean, *(new for _, new in pairs)], key=lambda row: row.id)
        return Defended(train, [self._note(old, new) for old, new in pairs], {"clean_rows_used": len(clean)})

    def _with(self, row: Row, trigger: str, number: int, label: int, seed: int) -> Row:
        words: Sequence[str] = row.text.split(" ")
        gap = stream(seed, f"mb.gap.{number}", row.id).randint(1, max(1, len(words) - 1))
        text = trigger + row.text if trigger.endswith(" ") else " ".join([*words[:gap], trigger, *words[gap:]])
        return replace(row, id=f"{row.id}.m{number}", text=text, label=label)

    def _note(self, old: Row, new: Row) -> Note:
        return Note(new.id, old.id, "injected", old.label, new.label, self.triggers[int(new.id.rpartition(".m")[2])], 0)
