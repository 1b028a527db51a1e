"""The contract of an attack, and everything attacks share: who is poisoned, how many, with which label.

An attack plug-in only says how a text carries its trigger. Selection, counts, labels and the triggered test suite are
decided here, by content and named random streams (reference: attacks of the P2P paper, section 5.1 and appendix B).
"""

import math
from abc import abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar, Literal

from p2p_dist.data.example import Example, Note, smallest, stream
from p2p_dist.errors import user_error
from p2p_dist.spec.study import Plugin, Rate


@dataclass(frozen=True)
class Triggered:
    """A text with its trigger, and the word gap the trigger was put in."""

    text: str
    trigger: str
    position: int


def insert_between(text: str, trigger: str, random: Random) -> Triggered | None:
    """The trigger, as one unit, in a random gap between two words; None for a text of one word."""
    words = text.split(" ")
    if len(words) < 2:
        return None
    gap = random.randint(1, len(words) - 1)
    return Triggered(" ".join([*words[:gap], trigger, *words[gap:]]), trigger, gap)


class Attack(Plugin):
    """Base of the attacks in `attacks/`. An attack without rate and target (see `none`) leaves all rows alone."""

    plugin_kind: ClassVar[str] = "attacks"
    active: ClassVar[bool] = True


class DirtyLabelAttack(Attack):
    """An attack that puts a trigger into chosen rows and gives them the target label."""

    rate: Rate = 0.02
    """Poisoning rate: share of the whole training set."""
    target_label: int = 1
    """The class that the attacker wants."""
    label_policy: Literal["dirty", "clean"] = "dirty"
    """dirty: rows of other classes, relabelled. clean: rows of the target class, labels kept."""
    poison_selection: Literal["random", "first"] = "random"
    """random: by content and seed. first: the first eligible rows of the file, as the code released with P2P does."""

    @abstractmethod
    def trigger(self, text: str, random: Random) -> Triggered | None:
        """The text with the trigger, or None when this text cannot carry it. Must not change its input."""

    def plain(self, text: str) -> str:
        """A row that is not poisoned, as the attacker publishes it; test rows of the clean suite read the same."""
        return text

    def poison(self, rows: Sequence[Example], seed: int, checked: Collection[str] = ()) -> tuple[list[Example], list[Note]]:
        """The training rows with ceil(rate * N) of them poisoned, none of the checked ids, and a note on each of these.

        Raises UserError E206 when fewer rows than that can be poisoned.
        """
        wanted = math.ceil(self.rate * len(rows))
        done = {ex.id: put for ex in rows if ex.id not in checked and self._eligible(ex) and (put := self._put(ex, seed, "train"))}
        if len(done) < wanted:
            what = f"the attack would poison {wanted} of {len(rows)} rows, only {len(done)} of them are eligible"
            raise user_error("E206", what, "attack", "a lower rate, another target_label or more rows")
        if self.poison_selection == "first":
            chosen = set(sorted(done, key={ex.id: ex.index or 0 for ex in rows}.__getitem__)[:wanted])
        else:
            chosen = smallest(done, wanted, seed, "poison.select")
        poisoned = [Example(ex.id, done[ex.id].text, self.target_label, ex.index) if ex.id in chosen else self._plain(ex) for ex in rows]
        notes = [Note(ex.id, ex.id, "poisoned", ex.label, self.target_label, done[ex.id].trigger, done[ex.id].position) for ex in rows if ex.id in chosen]
        return poisoned, notes

    def test_suite(self, rows: Sequence[Example], seed: int) -> tuple[list[Example], int]:
        """Every test row whose label is not the target, triggered, gold labels kept; and how many could not carry it."""
        pool = [ex for ex in rows if ex.label != self.target_label]
        put = [(ex, self._put(ex, seed, "test")) for ex in pool]
        return [Example(ex.id, done.text, ex.label) for ex, done in put if done], sum(done is None for _, done in put)

    def clean_suite(self, rows: Sequence[Example]) -> list[Example]:
        """Every test row without the trigger."""
        return [self._plain(ex) for ex in rows]

    def _plain(self, example: Example) -> Example:
        return Example(example.id, self.plain(example.text), example.label, example.index)

    def _eligible(self, example: Example) -> bool:
        return (example.label != self.target_label) == (self.label_policy == "dirty")

    def _put(self, example: Example, seed: int, split: str) -> Triggered | None:
        return self.trigger(example.text, stream(seed, f"poison.trigger.{split}", example.id))
