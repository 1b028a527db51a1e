"""BKI, backdoor keyword identification (Chen and Dai 2021, arXiv 2007.12070): train, find the word that moves the model
most all over the training set, drop every row in which it is among the strongest, train again.

The representation is the last hidden state at the label position instead of a sentence vector. One keyword is found:
with several triggers the method is weak by construction.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from p2p_dist.config.builder import Builder
from p2p_dist.config.graph import Stage
from p2p_dist.config.methods import WordInfluence
from p2p_dist.data.defense import Assumptions, DataDefense, Defended, DefenderView


class Bki(DataDefense):
    """How many of a text's words count as its strongest."""

    default_assumptions: ClassVar[Assumptions] = Assumptions(
        source="arXiv 2007.12070; hidden state at the label position"
    )

    top_words: Annotated[int, Field(ge=1)] = 5
    """Words per text that are kept, by the size of the change that leaving them out makes (original: 5)."""

    def stages(self, build: Builder, rows: Stage) -> Stage:
        words = build.scored(rows, WordInfluence(sets=("train",), keep=self.top_words), build.trained(rows))
        kept = build.defended(rows, {"words": words})
        return build.evaluated(build.trained(kept), kept)

    def defend_train(self, view: DefenderView) -> Defended:
        words = view.scores["words"]["train"]
        keyword = suspicious_word(words)
        hit = {id_ for id_, line in words.items() if keyword in {word for word, _ in line["words"]}}
        kept = sorted((row for row in view.train if row.id not in hit), key=lambda row: row.id)
        counts = {"keyword": keyword, "dropped": len(hit), "kept": len(kept), "clean_rows_used": 0}
        return Defended(kept, [], counts, frozenset(row.id for row in kept))


def suspicious_word(lines: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The word with the largest log10(count) * mean influence over all texts that have it among their strongest."""
    found: dict[str, list[float]] = {}
    for _, line in sorted(lines.items()):
        for word, influence in line["words"]:
            found.setdefault(word, []).append(influence)
    return max(
        found, key=lambda word: (math.log10(len(found[word])) * sum(found[word]) / len(found[word]), word), default=None
    )
