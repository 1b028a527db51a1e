"""SCPD, syntactically controlled paraphrase defense: every test text in the form S(NP)(VP)(.) (Qi et al. 2021, arXiv
2105.12400; P2P paper, appendix B).

Paraphrases are read from a table, made offline with SCPN or another controlled paraphraser, or are made by a language
model within the study, which is asked for that form.
"""

from typing import ClassVar

from p2p_dist.data.defense import Assumptions
from p2p_dist.data.paraphrase_defense import TableEdit


class Scpd(TableEdit):
    """Paraphrase test texts in the most common template, which removes a rare syntactic trigger, by a table or by a
    language model."""

    instructions: ClassVar[tuple[str, ...]] = (
        "Rewrite the text as one plain sentence that begins with its subject, followed by its verb, without a clause "
        "in front. Keep the meaning. Answer with the rewritten sentence only.",
    )

    default_assumptions: ClassVar[Assumptions] = Assumptions(
        extra_models="a controlled paraphraser, offline",
        source="arXiv 2105.12400, template S(NP)(VP)(.)",
    )
