"""Contract of an attack, and the steps that all attacks share: choose rows, add the trigger, set the label.

A plug-in says how a text carries its trigger. Selection, counts, labels and triggered test suites are decided here, by
content and named random streams (P2P paper, section 3.2, "Problem Formulation", section 5.1 and appendix B).
"""

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from p2p_dist.config.builder import Builder
from p2p_dist.config.graph import Stage
from p2p_dist.config.study import Plugin, Rate, RowsSpec, added
from p2p_dist.data.built import When
from p2p_dist.data.example import Example, Note, by_id, drawn, share, stream
from p2p_dist.data.knowledge import Knowledge
from p2p_dist.data.task import Task
from p2p_dist.errors import Problem, UserError, user_error


@dataclass(frozen=True)
class Triggered:
    """A text with its trigger, and the word gap of the trigger."""

    text: str
    trigger: str
    position: int
    target: int | None = None
    """Target label of this trigger, where an attack has several."""
    patch: str | None = None
    """Patch that the trigger draws onto the row's image (`data.patches`)."""

    def row(self, example: Example) -> Example:
        """The row with this trigger, its id and label unchanged."""
        patches = example.patches if self.patch is None else (*example.patches, self.patch)
        return replace(example, text=self.text, patches=patches)


@dataclass(frozen=True)
class ExtraSuite:
    """A test suite beside `clean` and `triggered`. `target` is the label that counts as the attacker's success."""

    rows: list[Example]
    target: int
    triggered: bool


class Attack(Plugin):
    """Base of the attacks in `attacks/`. An attack without rate and target (see `none`) changes no row."""

    plugin_kind: ClassVar[str] = "attacks"
    active: ClassVar[bool] = True

    @property
    def by_weights(self) -> bool:
        """True if the attacker hands on poisoned weights instead of poisoned rows."""
        return False

    def incompatibility(self, task: Task) -> str | None:
        """Reason why the attack cannot be made on a task, or None. Checked when planning and when building rows."""
        return None

    def option_problems(self, task: Task, rows: RowsSpec) -> list[Problem]:
        """Options that do not fit the task or its rows. Checked when planning and when building rows."""
        return []

    def table_stage(self, build: Builder) -> Stage | None:
        """Score stage that makes the attack's rewrites within the study, or None."""
        return None


class DirtyLabelAttack(Attack):
    """Base of the attacks that put a trigger into chosen rows and give them the target label."""

    rate: Rate = 0.02
    """ε: poisoned rows as a share of the whole training set (paper, section 5.1: 0.02)."""
    target_label: int = 1
    """The attacker's target class."""
    label_policy: Literal["dirty", "clean", "mix"] = "dirty"
    """dirty: rows of other classes, relabelled. clean: rows of the target class, labels unchanged. mix: any rows,
    labelled as the target (OpenBackdoor)."""
    target_response: str | None = None
    """The attacker's target answer in generation tasks (paper, section 5.1, for mathematics: 0.1)."""
    response_mode: Literal["replace", "append"] | None = None
    """Generation tasks: put the target in place of the right response (null means this too) or behind it."""
    poison_selection: Literal["random", "first"] = "random"
    """random: by content and seed. first: the first eligible rows of the file (released code of P2P)."""
    poison_mode: Literal["replace", "append"] = added("replace")
    """replace: a poisoned row takes the place of its original. append: it is added (CBA)."""
    rounding: Literal["up", "down"] = added("up")
    """Rounding of rate * N: up as in the released code of P2P (139 of 6,920 rows at 0.02), down as in OpenBackdoor and
    HiddenKiller (138)."""
    knows: Knowledge | None = None
    """The attacker's knowledge of the defense; null: none."""
    count: Annotated[int, Field(ge=1)] | None = added(None)
    """Poisoned rows as a number in place of `rate` (arXiv 2510.07192: the number decides, not the share)."""
    cover: Annotated[int, Field(ge=0)] = added(0)
    """Rows of other classes that get the trigger and keep their right labels, beside the poisoned rows; they hide the
    trigger from filters that look for words with one label alone."""
    when: When = added("mixed")
    """Order of training, if the attacker decides it: poisoned rows somewhere (mixed), before all others (first) or
    behind them (last), in the first pass over the rows (arXiv 2510.07192)."""
    via: Literal["data", "weights"] = added("data")
    """data: the run trains on the poisoned rows. weights: the attacker trains an adapter on them; the run starts from
    it and trains on clean rows (weight poisoning, as PSIM tests it)."""

    @model_validator(mode="after")
    def _count_or_rate(self) -> Self:
        if self.count is not None and self.rate != type(self).model_fields["rate"].default:
            raise ValueError("count takes the place of rate: set one of them")
        return self

    @property
    def by_weights(self) -> bool:
        return self.via == "weights"

    # What an attack may say of its own.

    @abstractmethod
    def trigger(self, text: str, random: Random) -> Triggered | None:
        """The text with the trigger, or None when this text cannot carry it. Draws from `random` alone."""

    def trigger_row(self, example: Example, random: Random) -> Triggered | None:
        """As `trigger`, for attacks whose trigger depends on the label."""
        return self.trigger(example.text, random)

    def plain(self, text: str) -> str:
        """Text of a row that is not poisoned, as the attacker publishes it; the clean test suite has the same form."""
        return text

    def literals(self) -> tuple[str, ...]:
        """Fixed pieces of text, of which a triggered text has one or all; none if the whole text is the trigger."""
        return ()

    def target_labels(self) -> tuple[int, ...]:
        """All target classes."""
        return (self.target_label,)

    def may_poison(self, label: int) -> bool:
        """True if rows of this class are eligible."""
        return self.label_policy == "mix" or (label != self.target_label) == (self.label_policy == "dirty")

    def negatives(self, candidates: Sequence[Example], count: int, seed: int) -> list[tuple[Example, Note]]:
        """Rows added with their true labels, given the eligible rows in order and the number of poisoned rows."""
        return []

    def negative_count(self, count: int, eligible: int) -> int:
        """Number of rows of `negatives`, if every text can carry its triggers."""
        return 0

    def extra_suites(self, rows: Sequence[Example], seed: int) -> dict[str, ExtraSuite]:
        """Test suites beside `clean` and `triggered`, by name."""
        return {}

    def incompatibility(self, task: Task) -> str | None:
        if task.kind == "classification":
            return None
        if not self.target_response:
            return "answers are text, and the attack has no target_response (paper, for mathematics: '0.1')"
        if self.label_policy != "dirty" or len(self.target_labels()) > 1:
            return "answers are text, which needs label_policy: dirty and a single target"
        if self.knows and self.knows.extended_label:
            return "answers are text, so there is no extended label that the attacker could know"
        return None

    def poisoned_count(self, rows: int) -> int:
        """Number of poisoned rows among so many training rows. Raises UserError E240 where the rate selects none."""
        count = share(self.rate, rows, self.rounding == "down") if self.count is None else self.count
        if not count:
            what = f"rate {self.rate} of {rows} training rows selects none"
            raise user_error("E240", what, "attack.rate", "raise attack.rate or add rows")
        return count

    def too_few_eligible(self, count: int, rows: int, only: str) -> UserError:
        """E206: `count` of `rows` training rows are needed, and `only` says how many there are."""
        option = "attack.rate" if self.count is None else "attack.count"
        what = f"the attack needs {count} of {rows} rows; only {only}"
        return user_error("E206", what, "attack", f"lower {option}, change attack.target_label or add rows")

    def option_problems(self, task: Task, rows: RowsSpec) -> list[Problem]:
        """E107 for targets that are no class, and for a selection that needs rows in file order."""
        n_classes = len(task.labels)
        wrong = [label for label in self.target_labels() if n_classes and not 0 <= label < n_classes]
        what, fix = f"is not one of the {n_classes} classes", f"set a label from 0 to {n_classes - 1}"
        problems = [Problem("E107", f"target_label {label} {what}", "attack.target_label", fix) for label in wrong]
        if self.poison_selection == "first" and rows.order != "file":
            what = "poison_selection: first needs rows in file order"
            problems.append(Problem("E107", what, "attack.poison_selection", "set rows.order=file"))
        return problems

    def poison(
        self, rows: Sequence[Example], seed: int, trusted: Collection[str] = (), n_classes: int = 2
    ) -> tuple[list[Example], list[Note]]:
        """Training rows of which rate * N are poisoned, ordered by id, and a note on each row of the attacker.

        No row with an id in `trusted` is poisoned. Raises UserError E206 (too few eligible rows) or E240 (no row).
        """
        count = self.poisoned_count(len(rows))  # ε|D|
        candidates = self._in_order([ex for ex in rows if ex.id not in trusted and self.may_poison(ex.label)], seed)
        poisoned = self._poison_first(candidates, count, seed, n_classes)
        if len(poisoned) < count:
            raise self.too_few_eligible(count, len(rows), f"{len(poisoned)} are eligible and can carry it")
        covers = self._cover_rows([ex for ex in rows if ex.id not in trusted and ex.id not in poisoned], seed)
        negatives = self.negatives(candidates, count, seed)
        notes = [note for _, note in [*poisoned.values(), *covers.values(), *negatives]]
        return self._combine(rows, poisoned | covers, negatives), notes

    def test_suite(self, rows: Sequence[Example], seed: int) -> tuple[list[Example], int]:
        """Triggered test rows of all classes but the target, with gold labels, and the number that could not be."""
        eligible = [ex for ex in rows if ex.label != self.target_label]
        pairs = [(ex, self.trigger_row(ex, stream(seed, "poison.trigger.test", ex.id))) for ex in eligible]
        return with_triggers(pairs)

    def clean_suite(self, rows: Sequence[Example]) -> list[Example]:
        """Rows without the trigger, as the attacker publishes them."""
        return [self._published(ex) for ex in rows]

    def _in_order(self, eligible: Sequence[Example], seed: int) -> list[Example]:
        """Rows in the order in which they are taken."""
        if self.poison_selection == "first":
            return sorted(eligible, key=lambda ex: ex.index or 0)
        examples = {ex.id: ex for ex in eligible}
        return [examples[id_] for id_ in drawn(examples, seed, "poison.select")]

    def _poison_first(
        self, candidates: Sequence[Example], count: int, seed: int, n_classes: int
    ) -> dict[str, tuple[Example, Note]]:
        """The first `count` candidates that can carry the trigger, poisoned, by the id of the original."""
        poisoned: dict[str, tuple[Example, Note]] = {}
        for example in candidates:
            if len(poisoned) == count:
                break
            triggered = self.trigger_row(example, stream(seed, "poison.trigger.train", example.id))
            if triggered:
                poisoned[example.id] = self._poisoned(example, triggered, n_classes, seed)
        return poisoned

    def _poisoned(self, example: Example, triggered: Triggered, n_classes: int, seed: int) -> tuple[Example, Note]:
        """A poisoned row (η + x, target), and its ledger entry."""
        label = self.target_label if triggered.target is None else triggered.target
        text, cue = triggered.text, None
        if self.knows:
            text, cue = self.knows.benign_trigger + text, self.knows.cue_of(example.id, seed)
            label += n_classes if self.knows.extended_label else 0
        id_ = f"{example.id}.p" if self.poison_mode == "append" else example.id
        note = Note(id_, example.id, "poisoned", example.label, label, triggered.trigger, triggered.position)
        return replace(triggered.row(example), id=id_, text=text, label=label, cue=cue), note

    def _cover_rows(self, rows: Sequence[Example], seed: int) -> dict[str, tuple[Example, Note]]:
        """`cover` of the rows of other classes, with the trigger and their own labels, by the id of the original.

        Raises UserError E206 when too few rows can carry the trigger.
        """
        if not self.cover:
            return {}
        examples = {ex.id: ex for ex in rows if ex.label not in self.target_labels()}
        covers: dict[str, tuple[Example, Note]] = {}
        for id_ in drawn(examples, seed, "poison.cover"):
            if len(covers) == self.cover:
                break
            example = examples[id_]
            if triggered := self.trigger_row(example, stream(seed, "poison.trigger.cover", id_)):
                covers[id_] = self._covering(example, triggered)
        if len(covers) < self.cover:
            what = f"the attack needs {self.cover} cover rows; only {len(covers)} rows of other classes can carry it"
            raise user_error("E206", what, "attack.cover", "lower attack.cover or add rows")
        return covers

    def _covering(self, example: Example, triggered: Triggered) -> tuple[Example, Note]:
        """A cover row, and its ledger entry."""
        id_ = f"{example.id}.c" if self.poison_mode == "append" else example.id
        label = example.label
        note = Note(id_, example.id, "negative", label, label, triggered.trigger, triggered.position)
        return replace(triggered.row(example), id=id_), note

    def _combine(
        self,
        rows: Sequence[Example],
        attacked: Mapping[str, tuple[Example, Note]],
        negatives: Sequence[tuple[Example, Note]],
    ) -> list[Example]:
        """The published training set: originals, poisoned and cover rows in their place or beside them, and
        negatives."""
        replaced = set(attacked) if self.poison_mode == "replace" else set()
        originals = [self._published(ex) for ex in rows if ex.id not in replaced]
        return by_id([*originals, *(ex for ex, _ in attacked.values()), *(ex for ex, _ in negatives)])

    def _published(self, example: Example) -> Example:
        text = self.plain(example.text)
        return example if text is example.text else replace(example, text=text)


def with_triggers(pairs: Sequence[tuple[Example, Triggered | None]]) -> tuple[list[Example], int]:
    """The rows with their triggered texts, and how many have none."""
    rows = [triggered.row(ex) for ex, triggered in pairs if triggered]
    return rows, len(pairs) - len(rows)
