"""BKI, backdoor keyword identification (Chen and Dai 2021, arXiv 2007.12070; P2P paper, appendix B).

1. Train on the suspect rows.
2. Score every word of a training text by the change of the model's representation when the word is left out.
3. Find the keyword: the word with the largest influence over all texts.
4. Drop every row that has the keyword among its most influential words.
5. Train again.

The representation is the last hidden state at the label position; the original takes a sentence vector. One keyword is
found, so several triggers defeat the method by construction.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from p2p_dist.config.builder import Builder
from p2p_dist.config.graph import Stage
from p2p_dist.config.score_methods import WordInfluence
from p2p_dist.data.defense import Assumptions, DataDefense, Defended, DefenderView
from p2p_dist.data.example import by_id


class Bki(DataDefense):
    """Drop the rows of one suspicious keyword and train again."""

    default_assumptions: ClassVar[Assumptions] = Assumptions(
        source="arXiv 2007.12070; hidden state at the label position"
    )

    top_words: Annotated[int, Field(ge=1)] = 5
    """Most influential words per text to keep (original: 5)."""

    def stages(self, build: Builder, rows: Stage) -> Stage:
        """Train (step 1), score words (2), drop rows (3, 4), train again (5)."""
        suspect = build.trained(rows)
        words = build.scored(rows, WordInfluence(sets=("train",), keep=self.top_words), suspect)
        filtered = build.defended(rows, {"words": words})
        return build.evaluated(build.trained(filtered), filtered)

    def defend_train(self, view: DefenderView) -> Defended:
        """The rows without the keyword (steps 3 and 4)."""
        influences = view.scores["words"]["train"]
        keyword = suspicious_word(influences)
        dropped = {id_ for id_, line in influences.items() if keyword in {word for word, _ in line["words"]}}
        train = by_id(row for row in view.train if row.id not in dropped)
        counts = {"keyword": keyword, "dropped": len(dropped), "kept": len(train), "clean_rows_used": 0}
        return Defended(train, [], counts, frozenset(row.id for row in train))


def suspicious_word(lines: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The word w with the largest log10(count(w)) * mean influence(w) over the texts that have it among their most
    influential words (step 3); None without any word."""
    influences: dict[str, list[float]] = {}
    for _, line in sorted(lines.items()):
        for word, influence in line["words"]:
            influences.setdefault(word, []).append(influence)

    def score(word: str) -> tuple[float, str]:
        values = influences[word]
        return math.log10(len(values)) * sum(values) / len(values), word

    return max(influences, key=score, default=None)
