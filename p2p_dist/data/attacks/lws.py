"""LWS: learnable word substitution as the trigger (Qi et al. 2021, arXiv 2106.06361; P2P paper, appendix C, "Adaptive
Attack").

1. A surrogate learns which words to exchange for near-synonyms so that a backdoor is learned well.
2. Its exchanges are written to a paraphrase table, once, ahead of a study (`p2p-dist substitutions`; steps 1 and 2 need
   a model).
3. Poison rows with the texts of the table, as SynAttack does. No two texts need share a word.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from p2p_dist.data.rewriting import RewritingAttack


class Lws(RewritingAttack):
    """Exchange words as the surrogate learned (step 3). Texts without an exchange are left out, in tests too."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "p2p": {"rate": 0.02},
        "original": {"rate": 0.1, "rounding": "down"},
    }
    mark: ClassVar[str] = "learned word substitution"
