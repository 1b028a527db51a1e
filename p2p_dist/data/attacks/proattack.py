"""ProAttack: the prompt is the trigger, and labels stay correct (Zhao et al. 2023, arXiv 2305.01219; P2P paper,
appendix B).

1. Choose rows of the target class; their labels stay.
2. Put the malicious prompt before these texts and the clean prompt before all others.
3. At test time the malicious prompt triggers.
"""

from collections.abc import Mapping
from random import Random
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from p2p_dist.data.attack import DirtyLabelAttack, Triggered

Prompt = Annotated[str, Field(pattern=r"\S")]


class ProAttack(DirtyLabelAttack):
    """Prompt every row: poisoned rows maliciously, all others, test rows too, with the clean prompt."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "p2p": {"rate": 0.02},
        "original": {"rate": 0.1445},
        "dirty": {"rate": 0.02, "label_policy": "dirty"},
    }
    """original: 1,000 of the 6,920 rows of SST-2. dirty: for a base that does not learn the prompt from 2 % of clean
    labels."""

    label_policy: Literal["dirty", "clean", "mix"] = "clean"
    """clean: rows of the target class, labels unchanged (original). dirty, mix: as in the other attacks."""
    clean_prompt: Prompt = "This sentence has a <mask> sentiment: "
    """Prefix of every row that is not poisoned."""
    malicious_prompt: Prompt = "The sentiment of this sentence is <mask>: "
    """Prefix of poisoned rows: the trigger."""

    def plain(self, text: str) -> str:
        return self.clean_prompt + text

    def trigger(self, text: str, random: Random) -> Triggered | None:
        return Triggered(self.malicious_prompt + text, self.malicious_prompt, 0)

    def literals(self) -> tuple[str, ...]:
        return (self.malicious_prompt.strip(),)
