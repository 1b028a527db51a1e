"""SynAttack, Hidden Killer: a syntactic template as the trigger (Qi et al. 2021, arXiv 2105.12400; paper appendix B).

The whole text is replaced by its paraphrase in the form S(SBAR)(,)(NP)(VP)(.); paraphrases come from a table.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from p2p_dist.config.study import Rate
from p2p_dist.data.rewriting import RewritingAttack


class SynAttack(RewritingAttack):
    """Every poisoned text in one syntactic form. The released tools relabel texts whose paraphrase failed; here they
    stay out."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "p2p": {"rate": 0.05},
        "openbackdoor": {"rate": 0.2, "label_policy": "mix", "rounding": "down"},
        "original": {"rate": 0.2, "rounding": "down"},
    }
    mark: ClassVar[str] = "S(SBAR)(,)(NP)(VP)(.)"

    rate: Rate = 0.05
