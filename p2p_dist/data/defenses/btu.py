"""BTU-style, backdoor token unlearning (arXiv 2501.03272; released code read): remove the words whose embeddings are
poisoned.

1. Train input embeddings alone for one pass over the attacked rows (`scores.embedding_drift`).
2. Suspect the tokens of the texts that moved most, and words all of whose tokens are suspected.
3. Delete these words from the training texts and from all test texts, and train.

Differences from the released code: its lists 1 and 2 come from a classifier over mean embeddings, which is a count of
words by gradient descent (`z_filter`), and are not built; its dimensions of suspected embeddings that moved far are
reset to those of a padding token, which causal models do not have; and its last epoch on clean rows is left out, so
that no trusted row is needed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field

from p2p_dist.config.builder import Builder
from p2p_dist.config.graph import Stage
from p2p_dist.config.score_methods import EmbeddingDrift
from p2p_dist.config.study import Positive, Rate
from p2p_dist.data.defense import Assumptions, DataDefense, Defended, DefenderView, EditDefense, Scores
from p2p_dist.data.example import Kind, Row, by_id

LISTED = 20
"""Words that the manifest names."""


class Btu(DataDefense, EditDefense):
    """Delete words whose embeddings move most. A text that would become empty stays. Clean words that say the label
    move too: read the accuracy."""

    kinds: ClassVar[tuple[Kind, ...]] = ("classification",)
    blind: ClassVar[str | None] = "it trains embeddings of words and deletes words, and sees no image"
    default_assumptions: ClassVar[Assumptions] = Assumptions(
        source="arXiv 2501.03272 and its released code; list 3 alone, words deleted in place of reset embeddings"
    )

    share: Rate = 0.0005
    """Suspected tokens as a share of the vocabulary (original: 0.0005)."""
    learning_rate: Positive = 2e-5
    """Learning rate of the embeddings (original: 2e-5)."""
    batch: Annotated[int, Field(ge=1)] = 64
    """Rows per step of that training (original: 64 for SST-2)."""

    def stages(self, build: Builder, rows: Stage) -> Stage:
        """Score (steps 1 and 2), delete (3), train."""
        method = EmbeddingDrift(share=self.share, learning_rate=self.learning_rate, batch=self.batch)
        scores = {"drift": build.scored(rows, method)}
        adapter = build.trained(build.defended(rows, scores))
        return build.evaluated(adapter, build.edited(build.tested(rows), scores))

    def defend_train(self, view: DefenderView) -> Defended:
        """The rows without the suspected words (step 3)."""
        words = _suspects(view.scores)
        train = by_id(replace(row, text=_without(row.text, words)) for row in view.train)
        texts = {row.id: row.text for row in view.train}
        rewritten = sum(row.text != texts[row.id] for row in train)
        strongest = sorted(words, key=lambda word: (-words[word], word))[:LISTED]
        counts = {"suspected_words": len(words), "strongest_words": strongest, "rewritten": rewritten}
        return Defended(train, [], {**counts, "clean_rows_used": 0})

    def edit(self, rows: Sequence[Row], scores: Mapping[str, Scores]) -> list[str | None]:
        words = _suspects(scores)
        return [_without(row.text, words) for row in rows]


def _suspects(scores: Mapping[str, Scores]) -> dict[str, float]:
    """Suspected words, each with how far its embedding moved."""
    return {word: float(line["drift"]) for word, line in scores["drift"].get("words", {}).items()}


def _without(text: str, words: Mapping[str, float]) -> str:
    return " ".join(word for word in text.split(" ") if word not in words) or text
