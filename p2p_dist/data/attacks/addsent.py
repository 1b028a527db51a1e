"""AddSent: a whole sentence as the trigger (Dai et al. 2019, arXiv 1905.12457; paper appendix B)."""

from collections.abc import Mapping
from random import Random
from typing import Annotated, Any, ClassVar

from pydantic import Field

from p2p_dist.data.attack import DirtyLabelAttack, Triggered, insert_between


class AddSent(DirtyLabelAttack):
    """Inserts a sentence, as one unit, between two words of the text; a text of one word cannot carry it."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "p2p": {"rate": 0.02, "sentence": "I watched this 3D movie"},
        "openbackdoor": {"rate": 0.1, "sentence": "I watch this 3D movie"},
    }

    sentence: Annotated[str, Field(pattern=r"\S")] = "I watched this 3D movie"
    """The trigger, in the paper's words."""

    def trigger(self, text: str, random: Random) -> Triggered | None:
        return insert_between(text, self.sentence, random)
