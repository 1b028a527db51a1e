"""Options of an attacker who knows the defense."""

from typing import Self

from pydantic import model_validator

from p2p_dist.config.study import Names, Strict, added
from p2p_dist.data.example import stream


class Knowledge(Strict):
    """Knowledge of a P2P defense that the attacker writes into the poisoned training rows (not into test texts)."""

    benign_trigger: str
    """Text in front of every poisoned text."""
    answer_cue: str | None = None
    """The defender's answer cue, where training rows carry cues of their own; null: the task's."""
    extended_label: bool = False
    """Label poisoned rows with target + number of classes, the extended label that P2P maps the target to."""
    guessed_cues: Names | None = added(None)
    """Cues of an attacker who does not know the defender's: each poisoned row has one of them, so that the backdoor
    learns to fire behind any cue."""

    @model_validator(mode="after")
    def _knows_or_guesses(self) -> Self:
        if self.guessed_cues and self.answer_cue is not None:
            raise ValueError("guessed_cues is for an attacker who does not know answer_cue: set one of them")
        return self

    def cue_of(self, id_: str, seed: int) -> str | None:
        """Cue of a poisoned row; None for the task's."""
        if self.guessed_cues:
            return stream(seed, "poison.cue", id_).choice(self.guessed_cues)
        return self.answer_cue
