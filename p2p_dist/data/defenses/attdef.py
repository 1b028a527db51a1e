"""AttDef-style (Li et al. 2023, arXiv 2305.02394): delete the words that decide the answer most.

1. Compute how much each word of a test text decides the undefended model's answer, from 0 to 1 within the text.
2. Delete the words whose attribution is `bar` or more.
3. Choose the bar on trusted rows: the lowest one that costs the undefended model at most `max_drop` of its accuracy.

Differences from the released code: gradient x input in place of relevance propagated through BERT's attention, deletion
in place of [MASK], and no sentence check by ELECTRA, so that every text is edited (the paper's first variant).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from p2p_dist.config.builder import Builder
from p2p_dist.config.graph import Stage
from p2p_dist.config.methods import LabelScores, WordAttribution
from p2p_dist.config.study import Plugin, RowsSpec, as_tuple
from p2p_dist.data.defense import Assumptions, EditDefense, Scores, no_known_rows
from p2p_dist.data.example import Kind, Row, text_key
from p2p_dist.data.task import Task
from p2p_dist.data.trials import UNCHANGED, affordable

Bar = Annotated[float, Field(gt=0, le=1)]
Bars = Annotated[tuple[Bar, ...], BeforeValidator(as_tuple), Field(min_length=1)]


class AttDef(EditDefense):
    """Delete the words of test texts to which the answer is attributed. A text that would become empty stays."""

    kinds: ClassVar[tuple[Kind, ...]] = ("classification",)
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

    def assumptions(self) -> Assumptions:
        if self.bar is None:
            return self.default_assumptions
        return replace(self.default_assumptions, clean_rows="none")

    def incompatibility(self, task: Task, attack: Plugin, rows: RowsSpec) -> str | None:
        return (
            None if self.bar is not None else no_known_rows(rows, "AttDef chooses its bar on trusted or held-out rows")
        )

    def stages(self, build: Builder, rows: Stage) -> Stage:
        """Attributions (step 1), a trial of every bar (step 3), and the edit by the chosen one (step 2)."""
        adapter, rows = build.trained(rows), build.tested(rows)
        scores = {"words": build.scored(rows, WordAttribution(sets=("suites", "reserve")), adapter)}
        if self.bar is None:
            trial = build.edited(rows, scores, "trial")
            scores["trial"] = build.scored(trial, LabelScores(sets=("suites",)), adapter)
        return build.evaluated(adapter, build.edited(rows, scores))

    def edit(self, rows: Sequence[Row], scores: Mapping[str, Scores]) -> list[str | None]:
        bar = self._bar(scores)
        return [row.text if bar is None else _without_decisive(row, scores["words"], bar) for row in rows]

    def trials(self, rows: Sequence[Row], scores: Mapping[str, Scores]) -> dict[str, list[str | None]]:
        unchanged: list[str | None] = [row.text for row in rows]
        return {UNCHANGED: unchanged} | {
            _name(bar): [_without_decisive(row, scores["words"], bar) for row in rows] for bar in self.bars
        }

    def chosen(self, scores: Mapping[str, Scores]) -> dict[str, Any]:
        return {} if self.bar is None and "trial" not in scores else {"bar": self._bar(scores)}

    def _bar(self, scores: Mapping[str, Scores]) -> float | None:
        """The bar to use (step 3); None where all of them cost too much."""
        if self.bar is not None:
            return self.bar
        names = affordable(scores["trial"], map(_name, self.bars), self.max_drop)
        return min((bar for bar in self.bars if _name(bar) in names), default=None)


def _name(bar: float) -> str:
    return f"bar{bar:g}"


def _without_decisive(row: Row, words: Scores, bar: float) -> str | None:
    """The text without the words whose attribution is `bar` or more (step 2); None where the text has none."""
    attributions = words["texts"][text_key(row.text)]["words"]
    if attributions is None:
        return None
    remaining = [word for word, value in zip(row.text.split(" "), attributions, strict=True) if value < bar]
    return " ".join(remaining) or row.text
