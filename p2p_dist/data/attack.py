"""The contract of an attack, and everything attacks share: who is poisoned, how many, with which label.

An attack plug-in only says how a text carries its trigger. Selection, counts, labels and the triggered test suites are
decided here, by content and named random streams (reference: attacks of the P2P paper, section 5.1 and appendix B).
"""

from abc import abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import ClassVar, Literal

from p2p_dist.config.study import Plugin, Rate, Strict, added
from p2p_dist.data.example import Example, Note, drawn, share, stream
from p2p_dist.data.task import Task
from p2p_dist.errors import user_error


@dataclass(frozen=True)
class Triggered:
    """A text with its trigger, and the word gap the trigger was put in."""

    text: str
    trigger: str
    position: int
    target: int | None = None
    """The label that this trigger asks for, where an attack has several."""


@dataclass(frozen=True)
class ExtraSuite:
    """A test suite of an attack beside the usual two. `target` is the label that counts as the attacker's success."""

    rows: list[Example]
    target: int
    triggered: bool


class Knowledge(Strict):
    """What an attacker knows of a P2P defense and writes into the poisoned training rows (not into test texts)."""

    benign_trigger: str
    """Stands in front of every poisoned text."""
    answer_cue: str | None = None
    """The defender's answer cue, where training rows carry cues of their own; null: the task's."""
    extended_label: bool = False
    """Label poisoned rows with target + number of classes, which is what the scheme makes of the target."""


class Attack(Plugin):
    """Base of the attacks in `attacks/`. An attack without rate and target (see `none`) leaves all rows alone."""

    plugin_kind: ClassVar[str] = "attacks"
    active: ClassVar[bool] = True

    @property
    def by_weights(self) -> bool:
        """Whether the attacker hands on poisoned weights instead of poisoned rows."""
        return False

    def incompatibility(self, task: Task) -> str | None:
        """Why this attack cannot be made on a task, in words, or None. Asked when a study is planned and when rows are
        built."""
        return None


class DirtyLabelAttack(Attack):
    """An attack that puts a trigger into chosen rows and gives them the target label."""

    rate: Rate = 0.02
    """Poisoning rate: share of the whole training set."""
    target_label: int = 1
    """The class that the attacker wants."""
    label_policy: Literal["dirty", "clean", "mix"] = "dirty"
    """dirty: rows of other classes, relabelled. clean: rows of the target class, labels kept. mix: any rows, labelled
    as the target (OpenBackdoor)."""
    target_response: str | None = None
    """What the attacker wants to be said, in generation tasks (paper, for mathematics: 0.1)."""
    response_mode: Literal["replace", "append"] | None = None
    """Whether the target stands in place of the right response (null means so) or behind it; in generation tasks."""
    poison_selection: Literal["random", "first"] = "random"
    """random: by content and seed. first: the first eligible rows of the file, as the code released with P2P does."""
    poison_mode: Literal["replace", "append"] = added("replace")
    """Whether a poisoned row takes the place of its original or stands beside it (CBA)."""
    rounding: Literal["up", "down"] = added("up")
    """How rate * N becomes a count: up as in the code released with P2P (139 of 6,920 rows at 0.02), down as in
    OpenBackdoor and HiddenKiller (138)."""
    knows: Knowledge | None = None
    """What the attacker knows of the defense; null: nothing."""
    via: Literal["data", "weights"] = added("data")
    """data: the poisoned rows are what everybody trains on. weights: the attacker trains an adapter on them and hands
    it on; the run begins with it and trains on clean rows (weight poisoning, as PSIM tests it)."""

    @property
    def by_weights(self) -> bool:
        return self.via == "weights"

    @abstractmethod
    def trigger(self, text: str, random: Random) -> Triggered | None:
        """The text with the trigger, or None when this text cannot carry it. Must not change its input."""

    def incompatibility(self, task: Task) -> str | None:
        if task.kind == "classification":
            return None
        if not self.target_response:
            return (
                "the task is answered with text, and the attack has no target_response (for mathematics the paper "
                "has '0.1')"
            )
        if self.label_policy != "dirty" or len(self.target_labels()) > 1:
            return "the task is answered with text, which needs label_policy: dirty and a single target"
        if self.knows and self.knows.extended_label:
            return "the task is answered with text, so there is no extended label that the attacker could know"
        return None

    def put(self, example: Example, random: Random) -> Triggered | None:
        """As `trigger`, for attacks whose trigger depends on the label."""
        return self.trigger(example.text, random)

    def plain(self, text: str) -> str:
        """A row that is not poisoned, as the attacker publishes it; test rows of the clean suite read the same."""
        return text

    def literals(self) -> tuple[str, ...]:
        """The fixed pieces of text that every triggered text has one or all of; empty when the whole text is the
        trigger."""
        return ()

    def target_labels(self) -> tuple[int, ...]:
        """Every class that the attack aims at."""
        return (self.target_label,)

    def may_poison(self, label: int) -> bool:
        """Whether a row of this class may be poisoned."""
        return self.label_policy == "mix" or (label != self.target_label) == (self.label_policy == "dirty")

    def negatives(self, ordered: Sequence[Example], wanted: int, seed: int) -> list[tuple[Example, Note]]:
        """Rows that the attacker adds with their true labels; `ordered` are the eligible rows in the order of their
        draws."""
        return []

    def extra_suites(self, rows: Sequence[Example], seed: int) -> dict[str, ExtraSuite]:
        """Test suites beside `clean` and `triggered`, by name."""
        return {}

    def poison(
        self, rows: Sequence[Example], seed: int, checked: Collection[str] = (), n_classes: int = 2
    ) -> tuple[list[Example], list[Note]]:
        """The training rows with rate * N of them poisoned, none of the checked ids, and a note on each row of the
        attacker.

        Raises UserError E206 when fewer rows than that can be poisoned, E240 when the rate selects none.
        """
        wanted = share(self.rate, len(rows), self.rounding == "down")
        if not wanted:
            raise user_error(
                "E240",
                f"rate {self.rate} of {len(rows)} training rows selects none",
                "attack.rate",
                "a higher rate or more rows",
            )
        ordered = self._ordered([ex for ex in rows if ex.id not in checked and self.may_poison(ex.label)], seed)
        done: dict[str, tuple[Example, Note]] = {}
        for example in ordered:
            if len(done) < wanted and (put := self.put(example, stream(seed, "poison.trigger.train", example.id))):
                done[example.id] = self._poisoned(example, put, n_classes)
        if len(done) < wanted:
            what = f"the attack would poison {wanted} of {len(rows)} rows, only {len(done)} of them are eligible"
            raise user_error("E206", what, "attack", "a lower rate, another target_label or more rows")
        more = self.negatives(ordered, wanted, seed)
        if self.poison_mode == "append":
            more = [*done.values(), *more]
            kept = [self._plain(ex) for ex in rows]
        else:
            kept = [done[ex.id][0] if ex.id in done else self._plain(ex) for ex in rows]
        notes = (
            [note for _, note in more]
            if self.poison_mode == "append"
            else [*(done[ex.id][1] for ex in rows if ex.id in done), *(note for _, note in more)]
        )
        return sorted([*kept, *(ex for ex, _ in more)], key=lambda ex: ex.id) if more else kept, notes

    def test_suite(self, rows: Sequence[Example], seed: int) -> tuple[list[Example], int]:
        """Every test row whose label is not the target, triggered, gold labels kept; and how many could not carry
        it."""
        pool = [ex for ex in rows if ex.label != self.target_label]
        put = [(ex, self.put(ex, stream(seed, "poison.trigger.test", ex.id))) for ex in pool]
        return [replace(ex, text=done.text) for ex, done in put if done], sum(done is None for _, done in put)

    def clean_suite(self, rows: Sequence[Example]) -> list[Example]:
        """Every test row without the trigger."""
        return [self._plain(ex) for ex in rows]

    def _poisoned(self, example: Example, put: Triggered, n_classes: int) -> tuple[Example, Note]:
        label = self.target_label if put.target is None else put.target
        text, cue = put.text, None
        if self.knows:
            text, cue = self.knows.benign_trigger + text, self.knows.answer_cue
            label += n_classes if self.knows.extended_label else 0
        id_ = f"{example.id}.p" if self.poison_mode == "append" else example.id
        note = Note(id_, example.id, "poisoned", example.label, label, put.trigger, put.position)
        return replace(example, id=id_, text=text, label=label, cue=cue), note

    def _plain(self, example: Example) -> Example:
        text = self.plain(example.text)
        return example if text is example.text else replace(example, text=text)

    def _ordered(self, pool: Sequence[Example], seed: int) -> list[Example]:
        """The rows in the order in which they are taken."""
        if self.poison_selection == "first":
            return sorted(pool, key=lambda ex: ex.index or 0)
        by_id = {ex.id: ex for ex in pool}
        return [by_id[id_] for id_ in drawn(by_id, seed, "poison.select")]
