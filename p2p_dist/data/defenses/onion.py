"""ONION: delete the words that make a text improbable (Qi et al. 2021, arXiv 2011.10369; P2P paper, appendix B).

1. Compute the perplexity of a text and of the text without each of its words, by a language model.
2. Delete word i if perplexity(text without i) - perplexity(text) <= bar.
3. Choose the bar on trusted rows: the strongest one that costs the undefended model at most `max_drop` of its accuracy.
"""

from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field

from p2p_dist.config.builder import Builder
from p2p_dist.config.graph import Stage
from p2p_dist.config.score_methods import WordPerplexity
from p2p_dist.config.study import as_tuple
from p2p_dist.data.bars import BarDefense
from p2p_dist.data.defense import Assumptions, Scores
from p2p_dist.data.example import Row, text_key

Bars = Annotated[tuple[Annotated[float, Field(lt=0)], ...], BeforeValidator(as_tuple)]


class Onion(BarDefense):
    """Delete outlier words from test texts. The reference perplexity is that of the whole text (a port that compares
    with the text without its last word deletes the last word of every text); a text that would become empty stays."""

    title: ClassVar[str] = "ONION"
    lower_is_stronger: ClassVar[bool] = False
    model_options: ClassVar[tuple[str, ...]] = ("language_model",)
    default_assumptions: ClassVar[Assumptions] = Assumptions(
        "rows.reserve, to choose the bar",
        "a language model",
        source="arXiv 2011.10369; the bar is chosen on trusted rows",
    )

    language_model: str = "smollm2-135m-instruct"
    """Language model that computes perplexities, a name as in `model` (original: gpt2-large)."""
    bar: Annotated[float, Field(lt=0)] | None = None
    """Bar to use; null: choose among `bars`."""
    bars: Bars = (-3.0, -10.0, -30.0, -100.0, -300.0, -1000.0)
    """Bars to choose from; nearer to 0 is stronger. None is used if all of them cost too much."""
    max_drop: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Accuracy on the trusted rows that the bar may cost."""

    def word_scores(self, build: Builder, rows: Stage, adapter: Stage) -> Stage:
        return build.scored(rows, WordPerplexity(sets=("suites", "reserve")), model="language_model")

    def without_words(self, row: Row, words: Scores, bar: float) -> str:
        """The text without the words whose removal lowers its perplexity by -bar or more (step 2)."""
        perplexities = words["texts"][text_key(row.text)]
        remaining = [
            word
            for word, without in zip(row.text.split(" "), perplexities["without"], strict=True)
            if without is None or without - perplexities["whole"] > bar
        ]
        return " ".join(remaining) or row.text
