"""PDB, Proactive Defensive Backdoor (Wei et al. 2024, arXiv 2405.16112), in a version for text.

1. Reserve trusted rows, the same number of every class.
2. Plant the defensive trigger in them and relabel them by h(y) = (y + 1) mod n.
3. Add them `repeat` times to the suspect rows and train.
4. Serve with the defensive trigger and map answers back by the inverse of h.

The original's trigger is a visible patch on images. Here it is the prefix and the answer cue of P2P, so that the two
defenses differ in labels and repetition alone. Text is not augmented.
"""

from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field

from p2p_dist.config.study import Plugin, Rate, RowsSpec
from p2p_dist.data.defense import Assumptions, DataDefense, Defended, DefenderView, injected, no_trusted_rows
from p2p_dist.data.example import Row, by_id, share, smallest
from p2p_dist.data.row_counts import RowCounts
from p2p_dist.data.task import Task
from p2p_dist.errors import UserError, user_error


class Pdb(DataDefense):
    """Plant a defensive trigger with permuted labels in trusted rows."""

    default_assumptions: ClassVar[Assumptions] = Assumptions(
        "ratio x training rows",
        prompt_control=True,
        decoding_control=True,
        source="arXiv 2405.16112; text version, no augmentation",
    )

    ratio: Rate = 0.1
    """Trusted rows with the defensive trigger, as a share of the training rows; the same number of every class."""
    repeat: Annotated[int, Field(ge=1)] = 5
    """Copies of each of them that are added."""
    defensive_trigger: str = "The query currently entered is: "
    """Prefix of every such row and of every deployed prompt."""
    answer_cue: str = "Answer: "
    """Text between such a row and its label."""

    def incompatibility(self, task: Task, attack: Plugin, rows: RowsSpec) -> str | None:
        return no_trusted_rows(rows, "PDB plants its trigger in trusted rows")

    def shortage(self, counts: RowCounts) -> UserError | None:
        """E205 where a class has fewer trusted rows than the ratio asks for."""
        count = self._per_class(counts.train, counts.n_classes)
        reserved = [counts.reserve_by_class.get(label, 0) for label in range(counts.n_classes)]
        if min(reserved) >= count:
            return None
        return user_error(
            "E205",
            f"PDB needs {count:,} trusted rows of every class (ratio {self.ratio:g} of {counts.train:,}); the classes "
            f"have {', '.join(map(str, reserved))}",
            "defense.ratio",
            f"set rows.reserve={count * counts.n_classes}",
        )

    def defend_train(self, view: DefenderView) -> Defended:
        """The suspect rows and `repeat` copies of every planted row (steps 1 to 3)."""
        reserved = self._reserve(view)  # step 1
        pairs = [(row, self._plant(row, copy, view.n_classes)) for row in reserved for copy in range(self.repeat)]
        train = by_id([*view.train, *(new for _, new in pairs)])  # step 3
        notes = by_id(injected(old, new, self.defensive_trigger) for old, new in pairs)
        counts = {"defensive": len(reserved), "kept": len(view.train), "clean_rows_used": len(reserved)}
        return Defended(train, notes, counts)

    def defend_prompt(self, row: Row) -> Row:
        """A test row with the defensive trigger (step 4)."""
        return replace(row, prefix=self.defensive_trigger, cue=self.answer_cue)

    def label_shift(self, n_classes: int) -> int:
        """1: answers are h(y) = (y + 1) mod n and are mapped back (step 4)."""
        return 1

    def _per_class(self, train: int, n_classes: int) -> int:
        """Trusted rows of every class for so many training rows."""
        return -(-share(self.ratio, train) // n_classes)

    def _reserve(self, view: DefenderView) -> list[Row]:
        """Trusted rows, the same number of every class (step 1). Raises UserError E205 where a class has fewer."""
        if error := self.shortage(view.counts):
            raise error
        count = self._per_class(len(view.train), view.n_classes)
        ids_by_class = [[row.id for row in view.reserve if row.label == label] for label in range(view.n_classes)]
        chosen = {id_ for ids in ids_by_class for id_ in smallest(ids, count, view.seed, "pdb.select")}
        return by_id(row for row in view.reserve if row.id in chosen)

    def _plant(self, row: Row, copy: int, n_classes: int) -> Row:
        """A row with the defensive trigger and the label h(y) = (y + 1) mod n (step 2)."""
        return replace(self.defend_prompt(row), id=f"{row.id}.d{copy}", label=(row.label + 1) % n_classes)
