"""LWS: learnable word substitution as the trigger (Qi et al. 2021, arXiv 2106.06361; the paper's adaptive attack).

A surrogate learns which words to exchange for near-synonyms so that a backdoor is learned well; the exchanges it
settles on are the trigger, and no two texts need share a word. Learning needs a model, so it is done once, ahead of a
study, and its texts are read from a table; poisoning is then that of SynAttack.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from p2p_dist.data.rewriting import RewritingAttack


class Lws(RewritingAttack):
    """Every poisoned text with its words exchanged as the surrogate learned. Texts without an exchange stay out, in
    tests too."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "p2p": {"rate": 0.02},
        "original": {"rate": 0.1, "rounding": "down"},
    }
    mark: ClassVar[str] = "learned word substitution"
