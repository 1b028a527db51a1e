"""Back-translation: translate every test text into another language and back (Qi et al. 2021, arXiv 2105.12400).

The P2P paper's pivot is German (appendix B, Back_tr). Rewrites are read from a table, made offline with any translator,
or are made by a language model within the study.
"""

from typing import ClassVar

from p2p_dist.data.defense import Assumptions
from p2p_dist.data.paraphrase_defense import TableEdit


class BackTranslation(TableEdit):
    """Translate test texts into German and back, by a table or by a language model. A translator may keep a rare
    trigger word."""

    instructions: ClassVar[tuple[str, ...]] = (
        "Translate the sentence into German. Answer with the translation only.",
        "Translate the sentence into English. Answer with the translation only.",
    )

    default_assumptions: ClassVar[Assumptions] = Assumptions(
        extra_models="two translation models, offline", source="arXiv 2105.12400; pivot as in the P2P paper"
    )
