"""SCPD, syntactically controlled paraphrase defense: every test text in the form S(NP)(VP)(.) (Qi et al. 2021, arXiv
2105.12400; P2P paper, appendix B).

Paraphrases are read from a table, made offline with SCPN or another controlled paraphraser.
"""

from typing import ClassVar

from p2p_dist.data.defense import Assumptions
from p2p_dist.data.paraphrase_defense import TableEdit


class Scpd(TableEdit):
    """Read paraphrases of test texts in the most common template, which removes a rare syntactic trigger."""

    default_assumptions: ClassVar[Assumptions] = Assumptions(
        extra_models="a controlled paraphraser, offline", source="arXiv 2105.12400, template S(NP)(VP)(.)"
    )
