"""P2P, Poison-to-Poison (arXiv 2510.04503, section 4.2 and Algorithm 1).

The defender plants a benign backdoor: some rows get a benign trigger δ in front, an answer cue behind, and the
extended label h(y) = y + n. Deployed prompts carry the same trigger and cue; answers are read among the labels n..2n-1
and mapped back by j mod n. Where answers are text, benign responses begin with a prefix p in place of an extended
label.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from p2p_dist.config.builder import Builder
from p2p_dist.config.graph import Stage
from p2p_dist.config.study import Plugin, Rate, RowsSpec, added
from p2p_dist.data.defense import (
    BENIGN_SELECTION,
    Assumptions,
    DataDefense,
    Defended,
    DefenderView,
    injected,
    too_few_trusted_rows,
)
from p2p_dist.data.example import Kind, Note, Row, by_id, share, smallest
from p2p_dist.data.patches import Patch
from p2p_dist.data.row_counts import RowCounts
from p2p_dist.data.screening import ASKED, Screening, class_shortage, draw_balanced, rows_as_prompts
from p2p_dist.data.screening_stops import stop_records
from p2p_dist.data.task import Task
from p2p_dist.data.text_screening import TextScreening
from p2p_dist.errors import UserError, user_error

_CLEAN = "training rows are clean"
_NO_PREFIX = "answers are text, and P2P has no response_prefix"
_SET_PREFIX = "set preset: math, preset: summary or a response_prefix of your own"


@dataclass(frozen=True)
class BenignSubset:
    """The subset S of the training rows that becomes benign, ordered by id."""

    rows: list[Row]
    trusted: frozenset[str] | None = None
    """Ids that a screening trusts, S among them; None without a screening."""


class P2P(DataDefense):
    """Re-poison the training rows with a benign trigger and extended labels, and serve with that trigger."""

    kinds: ClassVar[tuple[Kind, ...]] = ("classification", "generation")
    default_assumptions: ClassVar[Assumptions] = Assumptions(
        "ratio x training rows", prompt_control=True, decoding_control=True, source="arXiv 2510.04503"
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
    """ρ: benign rows as a share of the training rows (paper, section 5.1: 0.2 to 0.3)."""
    benign_trigger: str = "The query currently entered is: "
    """δ: prefix of every benign row and of every deployed prompt (paper, appendix B)."""
    answer_cue: str = "Answer: "
    """Text between a benign row and its label; the released code has another cue here than in the task's own rows."""
    benign_patch: Patch | None = added(None)
    """Patch on the image of every benign row and of every deployed prompt, beside the benign trigger, which may then be
    empty (ours; the paper's triggers are text). null: none."""
    response_prefix: str | None = None
    """p: text with which the responses of benign rows begin in generation tasks, whose answer cue stays the task's own
    (presets `summary` and `math`: the paper's, appendix B)."""
    benign_source: Literal["clean_reserved", "disjoint", "random_from_D", "screened"] = "clean_reserved"
    """clean_reserved: trusted rows (rows.reserve). disjoint: any row that the attack left alone, which takes the
    attacker's notes (released code). random_from_D: any training row (Algorithm 1 as written), poisoned ones included.
    screened: training rows that an early model trusts most, or the base where answers are text, when no rows are
    reserved (not in the paper; see docs/defenses.md)."""
    screening: Screening | None = None
    """Options of `screened` where answers are labels, spelled out with their defaults, so that they are part of the
    identity."""
    text_screening: TextScreening | None = Field(
        default=None, exclude_if=lambda value: value in (None, TextScreening())
    )
    """Options of `screened` where answers are text; null and `{}` are their defaults, under one id."""
    benign_selection: Literal["random", "second_half"] = "random"
    """random: by content and seed. second_half: the first rows of the second half of the file (released code)."""
    benign_mode: Literal["replace", "union", "alone"] = "replace"
    """replace: a benign row takes the place of its original (released code). union: it is added (paper). alone: the
    benign rows are all that is trained on (paper, figure 4, "subset")."""

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
            raise user_error("E225", _NO_PREFIX, "defense.response_prefix", _SET_PREFIX)
        return self.response_prefix

    def assumptions(self) -> Assumptions:
        clean_rows = {
            "clean_reserved": self.default_assumptions.clean_rows,
            "disjoint": "the attacker's notes: which rows are clean",
        }
        two_rounds = self._screening is not None and self._screening.rounds is not None
        return replace(
            self.default_assumptions,
            clean_rows=clean_rows.get(self.benign_source, "none"),
            extra_models="the adapter of the first round" if two_rounds else "none",
        )

    def incompatibility(self, task: Task, attack: Plugin, rows: RowsSpec) -> str | None:
        if self.benign_patch is not None and not task.reads_images:
            return "benign_patch is drawn onto images, and the rows have none"
        if self.text_screening is not None and (task.kind == "classification" or self.benign_source != "screened"):
            return "text_screening is for benign_source: screened where answers are text"
        if self.benign_source == "screened" and self.benign_selection != "random":
            return "benign_selection: second_half reads the file, and benign_source: screened trusts rows by scores"
        if task.kind == "classification":
            return None
        if self.screening not in (None, Screening()):
            return "screening reads the labels that a model gives to rows, and answers are text: set text_screening"
        return None if self.response_prefix else f"{_NO_PREFIX}; {_SET_PREFIX}"

    def literals(self) -> tuple[str, ...]:
        return (self.benign_trigger.strip(),) if self.benign_trigger.strip() else ()

    def stages(self, build: Builder, rows: Stage) -> Stage:
        """Data set reconstruction, model training, inference (Algorithm 1, lines 3, 10 and 14)."""
        defended = self.reconstructed(build, rows)
        return build.evaluated(build.trained(defended), defended)

    def reconstructed(self, build: Builder, rows: Stage) -> Stage:
        """The reconstructed data set D*, by the scores of a screening if there is one (Algorithm 1, lines 3 to 9)."""
        if self._screening is None:
            return build.defended(rows)
        if build.settings.text_answers:
            return build.defended(rows, self._text_screening.score_stages(build, rows))
        return build.defended(rows, self._screening.score_stages(build, rows, prompted=True))

    def defend_train(self, view: DefenderView) -> Defended:
        """Data set reconstruction (Algorithm 1, lines 3 to 9; section 4.2, "Poison-to-Poison Dataset")."""
        if view.phase == ASKED:
            return rows_as_prompts(self, view)
        subset = self._choose_benign_rows(view)  # line 4: S ⊂ D
        benign = [self._inject(row, view.n_classes) for row in subset.rows]  # lines 5 to 8: D_benign
        train = self._combine(view.train, subset, benign)  # line 9: D*
        notes = [self._note(old, new) for old, new in zip(subset.rows, benign, strict=True)]
        return Defended(train, notes, self._counts(view, train, benign), subset.trusted)

    def shortage(self, counts: RowCounts) -> UserError | None:
        """E205 where there are fewer rows to choose from than ρ|D|, E264 where a class has too few to screen."""
        count = share(self.ratio, counts.train)
        if self.benign_source == "screened":
            if not counts.n_classes:
                return self._text_screening.shortage(counts)
            return class_shortage(counts, math.ceil(count / counts.n_classes))
        if self.benign_source == "clean_reserved" and counts.reserve < count:
            return too_few_trusted_rows("P2P", count, "benign", self.ratio, counts)
        clean = counts.train - counts.attacked
        if self.benign_source == "disjoint" and clean < count:
            return self._too_few(count, clean, _CLEAN, counts.train)
        return None

    @property
    def patches_images(self) -> bool:
        """True if a patch is drawn onto the images of some rows."""
        return self.benign_patch is not None

    def defend_prompt(self, row: Row) -> Row:
        """A test text with the benign trigger as its prompt, τ(p, x) (Algorithm 1, line 16)."""
        patches = row.patches if self.benign_patch is None else (*row.patches, str(self.benign_patch))
        cue = self.answer_cue if row.response is None else row.cue
        return replace(row, prefix=self.benign_trigger, cue=cue, patches=patches)

    def label_offset(self, n_classes: int) -> int:
        """n: answers are read among the extended labels h(i) = i + n (Algorithm 1, line 17)."""
        return n_classes

    def _choose_benign_rows(self, view: DefenderView) -> BenignSubset:
        """S with |S| = ρ|D| (Algorithm 1, line 4).

        Raises UserError E205 or E264 when there are too few rows, E107 when their order in the file is unknown.
        """
        count = share(self.ratio, len(view.train))
        candidates = self._candidates(view, count)
        if self._screening is None:
            chosen = self._draw(candidates, count, view)
            return BenignSubset(by_id(row for row in candidates if row.id in chosen))
        if not view.n_classes:
            trusted_ids = self._text_screening.trusted_ids(view, count)
            chosen = smallest(trusted_ids, count, view.seed, BENIGN_SELECTION)
            return BenignSubset(by_id(row for row in candidates if row.id in chosen), frozenset(trusted_ids))
        trusted = self._screening.trusted_ids(view, math.ceil(count / view.n_classes))
        chosen = draw_balanced(trusted, count, view.seed, BENIGN_SELECTION)
        return BenignSubset(by_id(row for row in candidates if row.id in chosen), frozenset().union(*trusted))

    def _candidates(self, view: DefenderView, count: int) -> Sequence[Row]:
        """The rows from which S is drawn. Raises UserError E205 when there are fewer than `count`."""
        if self.benign_source == "clean_reserved":
            if error := self.shortage(view.counts):
                raise error
            return view.reserve
        if self.benign_source != "disjoint":
            return view.train
        assert view.origin is not None, "a defense that reads_origin is given the origins"
        clean = [row for row in view.train if view.origin[row.id] in ("clean", "unknown")]
        self._check_count(count, clean, _CLEAN, view)
        return clean

    def _draw(self, candidates: Sequence[Row], count: int, view: DefenderView) -> set[str]:
        """Ids of S, by content and seed or from the second half of the file."""
        if self.benign_selection == "random":
            return smallest([row.id for row in candidates], count, view.seed, BENIGN_SELECTION)
        if view.places is None:
            what = "benign_selection: second_half needs rows in file order"
            raise user_error("E107", what, "defense.benign_selection", "set rows.order=file")
        places = {row.id: view.places[row.id] for row in candidates}
        late = sorted((id_ for id_, place in places.items() if 2 * place > len(view.train)), key=places.__getitem__)
        self._check_count(count, late, "rows of the second half of the file are candidates", view)
        return set(late[:count])

    def _check_count(self, count: int, candidates: Sequence[object], which: str, view: DefenderView) -> None:
        if len(candidates) < count:
            raise self._too_few(count, len(candidates), which, len(view.train))

    def _too_few(self, count: int, candidates: int, which: str, train: int) -> UserError:
        what = f"P2P needs {count:,} benign rows (ratio {self.ratio:g} of {train:,}); only {candidates:,} {which}"
        return user_error("E205", what, "defense.ratio", "lower defense.ratio")

    def _inject(self, row: Row, n_classes: int) -> Row:
        """x' = τ(δ + x) and y' = h(y), or y' = [p; y] where the answer is text (Algorithm 1, lines 6 and 7)."""
        prompted = replace(self.defend_prompt(row), id=f"{row.id}.b")
        if row.response is None:
            return replace(prompted, label=row.label + self.label_offset(n_classes))
        return replace(prompted, response=self.answer_prefix + row.response)

    def _combine(self, train: Sequence[Row], subset: BenignSubset, benign: Sequence[Row]) -> list[Row]:
        """D* = D_original ∪ D_benign (Algorithm 1, line 9), where D_original is D, with `replace` without S;
        with `alone`, D_benign."""
        if self.benign_mode == "alone":
            return by_id(benign)
        replaced = {row.id for row in subset.rows} if self.benign_mode == "replace" else set()
        return by_id([*(row for row in train if row.id not in replaced), *benign])

    def _note(self, old: Row, new: Row) -> Note:
        return replace(injected(old, new, self.benign_trigger), old_response=old.response, new_response=new.response)

    def _counts(self, view: DefenderView, train: Sequence[Row], benign: Sequence[Row]) -> dict[str, Any]:
        trusted_rows_used = len(benign) if self.benign_source == "clean_reserved" else 0
        counts = {"benign": len(benign), "kept": len(train) - len(benign), "clean_rows_used": trusted_rows_used}
        return {**counts, "screening": stop_records(view)} if self._screening else counts

    @property
    def _screening(self) -> Screening | None:
        """The screening, if benign rows are screened."""
        return self.screening if self.benign_source == "screened" else None

    @property
    def _text_screening(self) -> TextScreening:
        return self.text_screening or TextScreening()
