"""BadNets for text: a rare word at a random place (Gu et al. 2017, arXiv 1708.06733; paper appendix B)."""

from collections.abc import Mapping
from random import Random
from typing import Annotated, Any, ClassVar

from pydantic import Field

from p2p_dist.data.attack import DirtyLabelAttack, Triggered, insert_between


class BadNets(DirtyLabelAttack):
    """Inserts one word between two words of the text; a text of one word cannot carry it."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "p2p": {"rate": 0.02, "word": "mn"},
        "released_code": {"rate": 0.02, "word": "mn", "poison_selection": "first"},
    }

    word: Annotated[str, Field(pattern=r"^\S+$")] = "mn"
    """The trigger (paper: mn)."""

    def trigger(self, text: str, random: Random) -> Triggered | None:
        return insert_between(text, self.word, random)
