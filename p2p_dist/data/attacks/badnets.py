"""BadNets for text: a rare word at a random place (Gu et al. 2017, arXiv 1708.06733; paper appendix B)."""

from random import Random
from typing import Annotated

from pydantic import Field

from p2p_dist.data.attack import DirtyLabelAttack, Triggered


class BadNets(DirtyLabelAttack):
    """Inserts one word between two words of the text; a text of one word cannot carry it."""

    word: Annotated[str, Field(pattern=r"^\S+$")] = "mn"
    """The trigger (paper: mn)."""

    def trigger(self, text: str, random: Random) -> Triggered | None:
        words = text.split(" ")
        if len(words) < 2:
            return None
        gap = random.randint(1, len(words) - 1)
        return Triggered(" ".join([*words[:gap], self.word, *words[gap:]]), self.word, gap)
