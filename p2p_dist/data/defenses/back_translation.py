"""Back-translation: every test text goes into another language and back (Qi et al. 2021, arXiv 2105.12400; paper table
1).

The paper's pivot is German. Rewrites come from a table, made once and offline with any translator.
"""

from typing import ClassVar

from p2p_dist.data.defense import Assumptions
from p2p_dist.data.paraphrase_defense import TableEdit


class BackTranslation(TableEdit):
    """A translator may keep a rare word: a rewriter is no full trigger remover."""

    default_assumptions: ClassVar[Assumptions] = Assumptions(
        extra_models="two translation models, offline", source="arXiv 2105.12400; pivot as in the P2P paper"
    )
