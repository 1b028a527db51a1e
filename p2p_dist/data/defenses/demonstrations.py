"""Demonstrations: clean examples in front of every deployed prompt (Mo et al. 2025, arXiv 2311.09763), an in-context
defense.

1. Draw `count` trusted rows, the same number of every class, from the shorter half of each class.
2. Put them with their answers in front of every test prompt; the undefended adapter answers.

The training is unchanged: an adapter that was trained on bare prompts sees longer ones than it knows. Read clean
accuracy beside the attack rate, and `labels: wrong` as the control.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from p2p_dist.config.builder import Builder, Training
from p2p_dist.config.graph import Stage
from p2p_dist.config.study import Plugin, RowsSpec
from p2p_dist.data.defense import Assumptions, DataDefense, Defended, DefenderView, no_trusted_rows
from p2p_dist.data.example import Kind, Row, by_id, drawn
from p2p_dist.data.prompts import answer, prompt
from p2p_dist.data.row_counts import RowCounts
from p2p_dist.data.task import Task
from p2p_dist.errors import UserError, user_error


class Demonstrations(DataDefense):
    """Put answered examples in front of every deployed prompt. Examples are the same for all test texts; retrieved and
    self-reasoned examples of the paper are not built. Checked rows are taken as they are, control tokens too."""

    kinds: ClassVar[tuple[Kind, ...]] = ("classification", "generation")
    default_assumptions: ClassVar[Assumptions] = Assumptions(
        "count", prompt_control=True, source="arXiv 2311.09763 (abstract); random examples"
    )

    blind: ClassVar[str | None] = "a prompt has no place for the images of the examples"

    count: Annotated[int, Field(ge=1, le=32)] = 4
    """Examples in front of a prompt."""
    labels: Literal["right", "wrong"] = "right"
    """wrong: every example has the next class as its label, or the response of another example (the control)."""

    def incompatibility(self, task: Task, attack: Plugin, rows: RowsSpec) -> str | None:
        return no_trusted_rows(rows, "its examples are trusted rows")

    def shortage(self, counts: RowCounts) -> UserError | None:
        """E205 where fewer rows are reserved than twice the examples, of which the shorter half is drawn."""
        if counts.reserve >= 2 * self.count:
            return None
        what = f"demonstrations need {2 * self.count} trusted rows, two for each example; {counts.reserve} are reserved"
        return user_error("E205", what, "defense.count", f"set rows.reserve={2 * self.count}, or lower defense.count")

    def stages(self, build: Builder, rows: Stage) -> Stage:
        """The undefended adapter, with room for the examples in its prompts (a training of no step)."""
        room = {"max_length": (self.count + 1) * build.settings.train["max_length"]}
        adapter = build.trained(rows, Training(start=build.trained(rows), stop_after_steps=0, changes=room))
        return build.evaluated(adapter, build.defended(rows))

    def defend_train(self, view: DefenderView) -> Defended:
        """The training rows as they are."""
        examples = self._examples(view)
        counts = {"kept": len(view.train), "clean_rows_used": len(examples), "examples": [row.id for row in examples]}
        return Defended(by_id(view.train), [], counts)

    def prompter(self, view: DefenderView) -> Callable[[Row], Row]:
        examples = self._examples(view)
        shown = examples if self.labels == "right" else _wrong(examples, view.n_classes)
        before = "".join(f"{prompt(row)}{answer(row, view.words)}\n" for row in shown)
        return lambda row: replace(row, prefix=before + row.prefix)

    def _examples(self, view: DefenderView) -> list[Row]:
        """The examples in the order of the prompt (step 1). Raises UserError E205 for too few trusted rows."""
        if error := self.shortage(view.counts):
            raise error
        shorter: list[list[Row]] = []
        for label in sorted({row.label for row in view.reserve}):
            of_class = sorted((len(row.text), row.id, row) for row in view.reserve if row.label == label)
            rows = {id_: row for _, id_, row in of_class[: (len(of_class) + 1) // 2]}
            shorter.append([rows[id_] for id_ in drawn(rows, view.seed, "demonstrations")])
        turns = [row for turn in range(self.count) for rows in shorter for row in rows[turn : turn + 1]]
        return turns[: self.count]


def _wrong(examples: Sequence[Row], n_classes: int) -> list[Row]:
    """The examples with wrong answers: the next class, or the response of the next example."""
    after = [*examples[1:], *examples[:1]]
    return [
        replace(row, label=(row.label + 1) % n_classes)
        if row.response is None
        else replace(row, response=other.response)
        for row, other in zip(examples, after, strict=True)
    ]
