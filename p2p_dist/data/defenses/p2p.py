"""P2P, Poison-to-Poison (arXiv 2510.04503, section 4.2 and algorithm 1).

The defender re-poisons the data itself: some rows get a benign trigger in front, another answer cue behind and the
label y + n. Prompts then carry the benign trigger, answers are read among the labels n..2n-1 and mapped back by j mod
n. Where a task is answered with text, benign responses begin with a prefix of the defender's instead (section 4.2,
generation tasks).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from p2p_dist.config.builder import Builder
from p2p_dist.config.graph import Stage
from p2p_dist.config.methods import LabelScores
from p2p_dist.config.study import Plugin, Rate, RowsSpec
from p2p_dist.data.defense import BENIGN_SELECTION, Assumptions, DataDefense, Defended, DefenderView
from p2p_dist.data.example import Kind, Note, Row, share, smallest
from p2p_dist.data.screening import AGAIN, Screening, choose, stops
from p2p_dist.data.task import Task
from p2p_dist.errors import user_error

ASKED = "asked"
"""The rows as questions to a model that was defended with them."""
_NO_PREFIX = (
    "the task is answered with text, and P2P has no response_prefix; take preset: math, preset: summary or "
    "words of your own"
)


class P2P(DataDefense):
    """The benign trigger, where the benign rows come from, and what becomes of the originals."""

    kinds: ClassVar[tuple[Kind, ...]] = ("classification", "generation")
    default_assumptions: ClassVar[Assumptions] = Assumptions(
        "ratio x training rows", prompt_control=True, source="arXiv 2510.04503"
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"benign_source": "random_from_D", "benign_mode": "union"},
        "summary": {"benign_trigger": "Query: ", "response_prefix": "Answer: "},
        "math": {
            "benign_trigger": "The given problem is: ",
            "response_prefix": "The correct answer to this problem is: ",
        },
        "released_code": {"benign_source": "disjoint", "benign_selection": "second_half", "benign_mode": "replace"},
    }

    ratio: Rate = 0.2
    """Benign rows as a share of the training rows (paper: 0.2 to 0.3)."""
    benign_trigger: str = "The query currently entered is: "
    """Prefix of every benign row and of every prompt of the deployed model."""
    answer_cue: str = "Answer: "
    """What stands between a benign row and its label; differs from the task's own cue in the released code."""
    response_prefix: str | None = None
    """What the responses of benign rows begin with in generation tasks, whose answer cue stays the task's own (presets
    `summary` and `math`: the paper's words)."""
    benign_source: Literal["clean_reserved", "disjoint", "random_from_D", "screened"] = "clean_reserved"
    """clean_reserved: from the rows that the defender has checked (rows.reserve). disjoint: from all rows that the
    attack left alone, which needs the attacker's notes (as the released code does). random_from_D: algorithm 1 read
    literally, which may make poisoned rows benign. screened: from the training rows that an early model trusts most;
    nobody has checked any (not in the paper; see docs/defenses.md)."""
    screening: Screening | None = None
    """How rows are screened with `screened`, where it is spelled out, defaults and all, so that they are identity."""
    benign_selection: Literal["random", "second_half"] = "random"
    """random: by content and seed. second_half: the first rows of the second half of the file, as released."""
    benign_mode: Literal["replace", "union"] = "replace"
    """Whether a benign row takes the place of its original in the training set (released code) or is added (paper)."""

    @model_validator(mode="before")
    @classmethod
    def _spell_out(cls, options: Any) -> Any:
        screened = isinstance(options, dict) and options.get("benign_source") == "screened"
        return {**options, "screening": Screening()} if screened and options.get("screening") is None else options

    @property
    def reads_origin(self) -> bool:
        return self.benign_source == "disjoint"

    @property
    def answer_prefix(self) -> str:
        if not self.response_prefix:
            raise user_error("E225", _NO_PREFIX, "defense.response_prefix")
        return self.response_prefix

    def assumptions(self) -> Assumptions:
        rows = {
            "clean_reserved": self.default_assumptions.clean_rows,
            "disjoint": "the attacker's notes: which rows are clean",
        }
        twice = self.benign_source == "screened" and self.screening is not None and self.screening.rounds is not None
        earlier = "the adapter of the first round" if twice else "none"
        return replace(self.default_assumptions, clean_rows=rows.get(self.benign_source, "none"), extra_models=earlier)

    def stages(self, build: Builder, rows: Stage) -> Stage:
        screening = self.screening if self.benign_source == "screened" else None
        scores = {role: build.scored(rows, method) for role, method in screening.methods().items()} if screening else {}
        if screening and screening.rounds:
            once = {"screening": screening.once()}
            model = build.trained(build.defended(rows, scores, changes=once))
            scores = {
                AGAIN: build.scored(
                    build.defended(rows, phase=ASKED, changes=once), LabelScores(sets=("train",)), model
                )
            }
        defended = build.defended(rows, scores)
        return build.evaluated(build.trained(defended), defended)

    def literals(self) -> tuple[str, ...]:
        return (self.benign_trigger.strip(),) if self.benign_trigger.strip() else ()

    def incompatibility(self, task: Task, attack: Plugin, rows: RowsSpec) -> str | None:
        if task.kind == "generation" and self.benign_source == "screened":
            return "rows are screened by the label that a model gives them, and this task is answered with text"
        return _NO_PREFIX if task.kind == "generation" and not self.response_prefix else None

    def defend_train(self, view: DefenderView) -> Defended:
        if view.phase == ASKED:
            asked = [
                replace(self.defend_prompt(row), label=row.label + view.n_classes)
                for row in view.train
                if row.label < view.n_classes
            ]
            return Defended(asked, [], {"asked": len(asked)})
        wanted = share(self.ratio, len(view.train))
        pool = self._pool(view)
        if len(pool) < wanted:
            what = (
                f"P2P wants {wanted} benign rows ({self.ratio:g} of {len(view.train)}), {self.benign_source} has "
                f"{len(pool)}"
            )
            fix = f"rows.reserve={wanted}" if self.benign_source == "clean_reserved" else "a lower defense ratio"
            raise user_error("E205", what, "defense", fix)
        trusted_ids = (
            self.screening.chosen(view, math.ceil(wanted / view.n_classes))
            if self.screening and self.benign_source == "screened"
            else None
        )
        chosen = (
            self._choose(pool, wanted, view)
            if trusted_ids is None
            else choose(trusted_ids, wanted, view.seed, BENIGN_SELECTION)
        )
        picked = sorted((row for row in pool if row.id in chosen), key=lambda row: row.id)
        benign = [self._inject(row, view.n_classes) for row in picked]
        kept = [row for row in view.train if self.benign_mode == "union" or row.id not in chosen]
        notes = [self._note(old, new) for old, new in zip(picked, benign, strict=True)]
        counts: dict[str, Any] = {
            "benign": len(benign),
            "kept": len(kept),
            "clean_rows_used": len(benign) if pool is view.reserve else 0,
        }
        if trusted_ids is not None:
            counts["screening"] = stops(view)
        trusted_set = None if trusted_ids is None else frozenset().union(*trusted_ids)
        return Defended(sorted([*kept, *benign], key=lambda row: row.id), notes, counts, trusted_set)

    def defend_prompt(self, row: Row) -> Row:
        return replace(row, prefix=self.benign_trigger, cue=self.answer_cue if row.response is None else row.cue)

    def label_offset(self, n_classes: int) -> int:
        return n_classes

    def _pool(self, view: DefenderView) -> Sequence[Row]:
        if self.benign_source == "clean_reserved":
            return view.reserve
        if self.benign_source in ("random_from_D", "screened"):
            return view.train
        assert view.origin is not None, "a defense that reads_origin is given the origins"
        return [row for row in view.train if view.origin[row.id] == "clean"]

    def _choose(self, pool: Sequence[Row], wanted: int, view: DefenderView) -> set[str]:
        if self.benign_selection == "random":
            return smallest([row.id for row in pool], wanted, view.seed, BENIGN_SELECTION)
        if view.places is None:
            raise user_error(
                "E107", "second_half needs rows in file order", "defense.benign_selection", "rows.order=file"
            )
        places = {row.id: view.places[row.id] for row in pool}
        late = sorted((id_ for id_, place in places.items() if 2 * place > len(view.train)), key=places.__getitem__)
        return set(late[:wanted])

    def _inject(self, row: Row, n_classes: int) -> Row:
        answered = (
            {"label": row.label + n_classes}
            if row.response is None
            else {"response": self.answer_prefix + row.response}
        )
        return replace(self.defend_prompt(row), id=f"{row.id}.b", **answered)

    def _note(self, old: Row, new: Row) -> Note:
        note = Note(new.id, old.id, "injected", old.label, new.label, self.benign_trigger, 0)
        return replace(note, old_response=old.response, new_response=new.response)
