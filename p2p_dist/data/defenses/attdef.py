"""AttDef-style (Li et al. 2023, arXiv 2305.02394): delete the words that decide the answer most.

1. Compute how much each word of a test text decides the undefended model's answer, from 0 to 1 within the text.
2. Delete the words whose attribution is `bar` or more.
3. Choose the bar on trusted rows: the lowest one that costs the undefended model at most `max_drop` of its accuracy.

Differences from the released code: gradient x input in place of relevance propagated through BERT's attention, deletion
in place of [MASK], and no sentence check by ELECTRA, so that every text is edited (the paper's first variant).
"""

from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field

from p2p_dist.config.builder import Builder
from p2p_dist.config.graph import Stage
from p2p_dist.config.score_methods import WordAttribution
from p2p_dist.config.study import as_tuple
from p2p_dist.data.bars import BarDefense
from p2p_dist.data.defense import Assumptions, Scores
from p2p_dist.data.example import Row, text_key

Bar = Annotated[float, Field(gt=0, le=1)]
Bars = Annotated[tuple[Bar, ...], BeforeValidator(as_tuple), Field(min_length=1)]


class AttDef(BarDefense):
    """Delete the words of test texts to which the answer is attributed. A text that would become empty stays."""

    title: ClassVar[str] = "AttDef"
    blind: ClassVar[str | None] = "it computes one score for each caption, whatever its image"
    lower_is_stronger: ClassVar[bool] = True
    default_assumptions: ClassVar[Assumptions] = Assumptions(
        "rows.reserve, to choose the bar",
        source="arXiv 2305.02394 and its released code; gradient x input, deletion, no sentence check",
    )

    bar: Bar | None = None
    """Bar to use; null: choose among `bars`."""
    bars: Bars = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
    """Bars to choose from; lower is stronger (original: 1.00 down to 0.11). None is used if all of them cost too
    much."""
    max_drop: Annotated[float, Field(ge=0, lt=1)] = 0.02
    """Accuracy on the trusted rows that the bar may cost (original: 0.02)."""

    def word_scores(self, build: Builder, rows: Stage, adapter: Stage) -> Stage:
        return build.scored(rows, WordAttribution(sets=("suites", "reserve")), adapter)

    def without_words(self, row: Row, words: Scores, bar: float) -> str | None:
        """The text without the words whose attribution is `bar` or more (step 2); None where the text has none."""
        attributions = words["texts"][text_key(row.text)]["words"]
        if attributions is None:
            return None
        remaining = [word for word, value in zip(row.text.split(" "), attributions, strict=True) if value < bar]
        return " ".join(remaining) or row.text
