"""PDB, Proactive Defensive Backdoor (Wei et al. 2024, arXiv 2405.16112), in a version for text.

The original plants a visible patch in checked images, relabels them (y + 1) mod n, adds them five times to the poisoned
set and wraps the model: patch in, permuted labels out. Here the patch is the prefix and the answer cue that P2P uses,
so that the two differ in the labels and the repetition alone. Text is not augmented.
"""

import math
from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field

from p2p_dist.config.study import Plugin, Rate, RowsSpec
from p2p_dist.data.defense import Assumptions, DataDefense, Defended, DefenderView
from p2p_dist.data.example import Note, Row, smallest
from p2p_dist.errors import user_error


class Pdb(DataDefense):
    """The defensive trigger, how many checked rows carry it, and how often each is repeated."""

    default_assumptions: ClassVar[Assumptions] = Assumptions(
        "ratio x training rows", prompt_control=True, source="arXiv 2405.16112; text version, no augmentation"
    )

    ratio: Rate = 0.1
    """Checked rows with the defensive trigger, as a share of the training rows; the same number of every class."""
    repeat: Annotated[int, Field(ge=1)] = 5
    """How often each of them is added."""
    defensive_trigger: str = "The query currently entered is: "
    """Prefix of every such row and of every prompt of the deployed model."""
    answer_cue: str = "Answer: "
    """What stands between such a row and its label."""

    def incompatibility(self, task: Plugin, attack: Plugin, rows: RowsSpec) -> str | None:
        return (
            None
            if rows.reserve
            else "PDB plants its trigger in rows that the defender has checked, and rows.reserve is 0"
        )

    def defend_train(self, view: DefenderView) -> Defended:
        each = math.ceil(self.ratio * len(view.train) / view.n_classes)
        pools = [[row.id for row in view.reserve if row.label == label] for label in range(view.n_classes)]
        if min(map(len, pools)) < each:
            what = f"PDB wants {each} checked rows of every class, there are {[len(pool) for pool in pools]}"
            raise user_error("E205", what, "defense.ratio", f"rows.reserve={each * view.n_classes}")
        chosen = {id_ for pool in pools for id_ in smallest(pool, each, view.seed, "pdb.select")}
        picked = sorted((row for row in view.reserve if row.id in chosen), key=lambda row: row.id)
        pairs = [(row, self._inject(row, copy, view.n_classes)) for row in picked for copy in range(self.repeat)]
        notes = [
            Note(new.id, old.id, "injected", old.label, new.label, self.defensive_trigger, 0) for old, new in pairs
        ]
        train = sorted([*view.train, *(new for _, new in pairs)], key=lambda row: row.id)
        return Defended(
            train,
            sorted(notes, key=lambda note: note.id),
            {"defensive": len(picked), "kept": len(view.train), "clean_rows_used": len(picked)},
        )

    def defend_prompt(self, row: Row) -> Row:
        return replace(row, prefix=self.defensive_trigger, cue=self.answer_cue)

    def label_shift(self, n_classes: int) -> int:
        return 1

    def _inject(self, row: Row, copy: int, n_classes: int) -> Row:
        return replace(self.defend_prompt(row), id=f"{row.id}.d{copy}", label=(row.label + 1) % n_classes)
