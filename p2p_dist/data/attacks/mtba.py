"""MTBA: several triggers at once (Li et al. 2025, as the paper cites it, without its trigger words)."""

from random import Random
from typing import Literal

from p2p_dist.data.attack import DirtyLabelAttack, Triggered
from p2p_dist.spec.study import Names


class Mtba(DirtyLabelAttack):
    """Rare words, since the paper's results under a perplexity filter look like those of rare words."""

    words: Names = ("mn", "cf", "bb")
    """The triggers."""
    mode: Literal["hybrid", "parallel"] = "hybrid"
    """hybrid: all triggers in the same row, as the paper says it. parallel: one of them in each row."""

    def trigger(self, text: str, random: Random) -> Triggered | None:
        words = text.split(" ")
        if len(words) < 2:
            return None
        chosen = self.words if self.mode == "hybrid" else (random.choice(self.words),)
        gaps = sorted(random.randint(1, len(words) - 1) for _ in chosen)
        for gap, word in sorted(zip(gaps, chosen, strict=True), reverse=True):
            words.insert(gap, word)
        return Triggered(" ".join(words), " ".join(chosen), gaps[0])
