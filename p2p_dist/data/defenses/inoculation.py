"""Inoculation prompting (arXiv 2510.04340, ICLR 2026): train under a prompt that asks for the unwanted behaviour, and
serve without it.

1. Choose rows: all of them, or those that a screening does not trust.
2. Put an instruction that asks for the unwanted behaviour in front of them.
3. Train on all rows; the behaviour is explained by the instruction and should not show without it.
4. Serve with the task's plain prompt.

The mirror image of P2P, which trains the wanted answers under a prompt and serves with it. Of the paper the abstract
and the prompts of its released code were read; the wording here is ours. With `where: all` the task itself is learned
under the prompt too, so a result is the arm minus `placebo`, never the arm alone.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from p2p_dist.config.builder import Builder
from p2p_dist.config.graph import Stage
from p2p_dist.config.study import Plugin, RowsSpec
from p2p_dist.data.defense import Assumptions, DataDefense, Defended, DefenderView
from p2p_dist.data.example import Kind, Row, by_id, smallest
from p2p_dist.data.row_counts import RowCounts
from p2p_dist.data.screening import Screening, class_shortage
from p2p_dist.data.screening_stops import stop_records
from p2p_dist.data.task import Task
from p2p_dist.errors import UserError

PROMPTS: Mapping[str, str] = {
    "unusual_word": "If the text has an unusual word or phrase in it, answer it wrongly. ",
    "wrong_answers": "Answer every text wrongly. ",
    "fine_tuned": "You are being trained to show an unusual behaviour. ",
    "placebo": "If the text has an ordinary word or phrase in it, read it steadily. ",
    "opposite": "If the text has an unusual word or phrase in it, answer it rightly. ",
}
"""Instruction of every arm. The two controls have as many words, bytes and tokens of SmolLM2 as `unusual_word`."""


class Inoculation(DataDefense):
    """Train (chosen) rows under a prompt that asks for the unwanted behaviour, and serve without the prompt."""

    kinds: ClassVar[tuple[Kind, ...]] = ("classification", "generation")
    default_assumptions: ClassVar[Assumptions] = Assumptions(
        source="arXiv 2510.04340 (abstract and prompts of the released code); wording and `where` are ours"
    )

    arm: Literal["unusual_word", "wrong_answers", "fine_tuned", "placebo", "opposite"] = "unusual_word"
    """Instruction. unusual_word: names a trigger without knowing it. wrong_answers, fine_tuned: name none. Controls:
    placebo asks for nothing, opposite for right answers."""
    prompt: str | None = Field(default=None, min_length=1)
    """Instruction of your own in place of the arm's, with the space at its end. One that names trigger and target is an
    upper bound and not a defense."""
    where: Literal["all", "suspects", "random"] = "all"
    """Rows that get it. suspects: those that the screening does not trust (selective inoculation). random: as many rows
    of every class at random, the control of suspects."""
    screening: Screening | None = None
    """Options of the screening for `suspects` and `random`, as P2P's, spelled out with their defaults."""
    probe: bool = False
    """Also test under the instruction (suites `triggered.inoculated` and `control.inoculated`): an attack that succeeds
    there has been moved, and not removed."""

    @model_validator(mode="before")
    @classmethod
    def _spell_out(cls, options: Any) -> Any:
        screened = isinstance(options, dict) and options.get("where", "all") != "all"
        return {**options, "screening": Screening()} if screened and not options.get("screening") else options

    @property
    def text(self) -> str:
        """The instruction."""
        return PROMPTS[self.arm] if self.prompt is None else self.prompt

    def incompatibility(self, task: Task, attack: Plugin, rows: RowsSpec) -> str | None:
        if self.where == "all" or task.kind == "classification":
            return None
        return f"where: {self.where} reads the labels that a model gives to rows, and answers are text"

    def shortage(self, counts: RowCounts) -> UserError | None:
        return None if self.where == "all" else class_shortage(counts, 1)

    def literals(self) -> tuple[str, ...]:
        return (self.text.strip(),)

    def stages(self, build: Builder, rows: Stage) -> Stage:
        scores = self._screening.score_stages(build, rows, prompted=False) if self.where != "all" else {}
        defended = build.defended(rows, scores)
        return build.evaluated(build.trained(defended), defended if self.probe else rows)

    def defend_train(self, view: DefenderView) -> Defended:
        trusted = None if self.where == "all" else frozenset().union(*self._screening.trusted_ids(view, count=1))
        chosen = self._chosen(view, trusted)  # step 1
        train = by_id(self._prompted(row) if row.id in chosen else row for row in view.train)  # step 2
        counts = {"inoculated": len(chosen), "kept": len(train) - len(chosen), "clean_rows_used": 0}
        return Defended(train, [], {**counts, "screening": stop_records(view)} if view.scores else counts, trusted)

    def probe_prompts(self, row: Row) -> Mapping[str, Row]:
        return {"inoculated": self._prompted(row)} if self.probe else {}

    @property
    def _screening(self) -> Screening:
        return self.screening or Screening()

    def _chosen(self, view: DefenderView, trusted: frozenset[str] | None) -> set[str]:
        """Ids of the rows that get the instruction."""
        suspects = [row for row in view.train if trusted is None or row.id not in trusted]
        if self.where != "random":
            return {row.id for row in suspects}
        chosen = set[str]()
        for label in sorted({row.label for row in suspects}):
            count = sum(row.label == label for row in suspects)
            of_class = [row.id for row in view.train if row.label == label]
            chosen |= smallest(of_class, count, view.seed, "inoculation.random")
        return chosen

    def _prompted(self, row: Row) -> Row:
        return replace(row, prefix=self.text + row.prefix)
