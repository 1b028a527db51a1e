"""ONION: delete the words that make a text improbable (Qi et al. 2021, arXiv 2011.10369; P2P paper, appendix B).

1. Compute the perplexity of a text and of the text without each of its words, by a language model.
2. Delete word i if perplexity(text without i) - perplexity(text) <= bar.
3. Choose the bar on trusted rows: the strongest one that costs the undefended model at most `max_drop` of its accuracy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from p2p_dist.config.builder import Builder
from p2p_dist.config.graph import Stage
from p2p_dist.config.methods import LabelScores, WordPerplexity
from p2p_dist.config.study import Plugin, RowsSpec
from p2p_dist.data.defense import Assumptions, EditDefense, Scores, no_known_rows
from p2p_dist.data.example import Kind, Row, text_key
from p2p_dist.data.task import Task
from p2p_dist.data.trials import UNCHANGED, affordable

Bars = Annotated[
    tuple[Annotated[float, Field(lt=0)], ...],
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
]


class Onion(EditDefense):
    """Delete outlier words from test texts. The reference perplexity is that of the whole text (a port that compares
    with the text without its last word deletes the last word of every text); a text that would become empty stays."""

    kinds: ClassVar[tuple[Kind, ...]] = ("classification",)
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

    def assumptions(self) -> Assumptions:
        if self.bar is None:
            return self.default_assumptions
        return replace(self.default_assumptions, clean_rows="none")

    def incompatibility(self, task: Task, attack: Plugin, rows: RowsSpec) -> str | None:
        return (
            None if self.bar is not None else no_known_rows(rows, "ONION chooses its bar on trusted or held-out rows")
        )

    def stages(self, build: Builder, rows: Stage) -> Stage:
        """Perplexities (step 1), a trial of every bar (step 3), and the edit by the chosen one (step 2)."""
        adapter, rows = build.trained(rows), build.tested(rows)
        scores = {"words": build.scored(rows, WordPerplexity(sets=("suites", "reserve")), model="language_model")}
        if self.bar is None:
            trial = build.edited(rows, scores, "trial")
            scores["trial"] = build.scored(trial, LabelScores(sets=("suites",)), adapter)
        return build.evaluated(adapter, build.edited(rows, scores))

    def edit(self, rows: Sequence[Row], scores: Mapping[str, Scores]) -> list[str | None]:
        bar = self._bar(scores)
        return [row.text if bar is None else _without_outliers(row, scores["words"], bar) for row in rows]

    def trials(self, rows: Sequence[Row], scores: Mapping[str, Scores]) -> dict[str, list[str | None]]:
        unchanged: list[str | None] = [row.text for row in rows]
        return {UNCHANGED: unchanged} | {
            _name(bar): [_without_outliers(row, scores["words"], bar) for row in rows] for bar in self.bars
        }

    def chosen(self, scores: Mapping[str, Scores]) -> dict[str, Any]:
        return {} if self.bar is None and "trial" not in scores else {"bar": self._bar(scores)}

    def _bar(self, scores: Mapping[str, Scores]) -> float | None:
        """The bar to use (step 3); None where all of them cost too much."""
        if self.bar is not None:
            return self.bar
        names = affordable(scores["trial"], map(_name, self.bars), self.max_drop)
        return max((bar for bar in self.bars if _name(bar) in names), default=None)


def _name(bar: float) -> str:
    return f"bar{bar:g}"


def _without_outliers(row: Row, words: Scores, bar: float) -> str:
    """The text without the words whose removal lowers its perplexity by -bar or more (step 2)."""
    perplexities = words["texts"][text_key(row.text)]
    remaining = [
        word
        for word, without in zip(row.text.split(" "), perplexities["without"], strict=True)
        if without is None or without - perplexities["whole"] > bar
    ]
    return " ".join(remaining) or row.text
