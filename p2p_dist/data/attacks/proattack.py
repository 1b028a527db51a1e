"""ProAttack: the prompt itself is the trigger, and labels stay right (Zhao et al. 2023, arXiv 2305.01219)."""

from collections.abc import Mapping
from random import Random
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from p2p_dist.data.attack import DirtyLabelAttack, Triggered

Prompt = Annotated[str, Field(pattern=r"\S")]


class ProAttack(DirtyLabelAttack):
    """Every row carries a prompt: poisoned rows the malicious one, all others, test rows too, the clean one."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "p2p": {"rate": 0.02},
        "original": {"rate": 0.1445},
        "dirty": {"rate": 0.02, "label_policy": "dirty"},
    }
    """original: 1,000 of the 6,920 rows of SST-2. dirty: for a base that 2 % of clean labels do not teach the
    prompt."""

    label_policy: Literal["dirty", "clean", "mix"] = "clean"
    clean_prompt: Prompt = "This sentence has a <mask> sentiment: "
    malicious_prompt: Prompt = "The sentiment of this sentence is <mask>: "

    def plain(self, text: str) -> str:
        return self.clean_prompt + text

    def trigger(self, text: str, random: Random) -> Triggered | None:
        return Triggered(self.malicious_prompt + text, self.malicious_prompt, 0)

    def literals(self) -> tuple[str, ...]:
        return (self.malicious_prompt.strip(),)
