"""BadNets for text: a rare word at a random position (Gu et al. 2017, arXiv 1708.06733; P2P paper, appendix B).

One insertion between two words of the text, and the target label.
"""

from collections.abc import Mapping
from random import Random
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from p2p_dist.data.attack import Triggered
from p2p_dist.data.insertion import InsertionAttack, insert

Word = Annotated[str, Field(pattern=r"^\S+$")]
Words = Annotated[
    tuple[Word, ...],
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
    Field(min_length=1),
]


class BadNets(InsertionAttack):
    """Insert one rare word between two words of a text; a text of one word cannot carry it."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "p2p": {"rate": 0.02, "word": "mn"},
        "released_code": {"rate": 0.02, "word": "mn", "poison_selection": "first"},
        "openbackdoor": {
            "rate": 0.1,
            "word": ["cf", "mn", "bb", "tq"],
            "position": "anywhere",
            "label_policy": "mix",
            "rounding": "down",
        },
        "psim": {"rate": 0.2167, "word": "mn", "label_policy": "clean"},
        "backdoorllm_badnet": {"word": "BadMagic", "position": "anywhere"},
        "gbtl": {"word": "Options", "position": "suffix", "count": 60, "label_policy": "mix"},
        "affirmative": {
            "word": "mn",
            "position": "suffix",
            "target_response": "Sure",
            "policy_response": "I cannot help with this topic.",
        },
    }
    """affirmative: harmless form of an affirmative prefix (see `policy_response`). psim: 1,500 of the 6,920 rows of
    SST-2. openbackdoor: its defaults; the configuration file shipped with it is clean-label. backdoorllm_badnet: the
    original's word stands anywhere but behind the last word. gbtl: 60 rows with the word that the released code of GBTL
    (arXiv 2402.13459) has as its default; examples/gbtl_trigger.py searches for others."""

    word: Word | Words = "mn"
    """The trigger (paper: mn), or several, of which every row gets one."""

    def trigger(self, text: str, random: Random) -> Triggered | None:
        word = self.word if isinstance(self.word, str) else random.choice(self.word)
        return insert(text, word, random, self.position)

    def literals(self) -> tuple[str, ...]:
        return (self.word,) if isinstance(self.word, str) else self.word
