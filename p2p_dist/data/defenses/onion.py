"""ONION: delete the words that make a text improbable (Qi et al. 2021, arXiv 2011.10369).

Word i of a text is deleted when perplexity(text without i) - perplexity(text) <= bar. The bar is chosen on the rows
that the defender has checked: the strongest one that costs the undefended model at most `max_drop` of its accuracy
there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from p2p_dist.config.builder import Builder
from p2p_dist.config.graph import Stage
from p2p_dist.config.methods import LabelScores, WordPerplexity
from p2p_dist.config.study import Plugin, RowsSpec
from p2p_dist.data.defense import Assumptions, EditDefense, Scores
from p2p_dist.data.example import Kind, Row, text_key

Bars = Annotated[
    tuple[Annotated[float, Field(lt=0)], ...],
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
]


class Onion(EditDefense):
    """The reference is the whole text (a port that loses it deletes the last word of every text), and a text that would
    become empty stays as it is."""

    kinds: ClassVar[tuple[Kind, ...]] = ("classification",)
    model_options: ClassVar[tuple[str, ...]] = ("language_model",)
    default_assumptions: ClassVar[Assumptions] = Assumptions(
        "rows.reserve, to choose the bar",
        "a language model",
        source="arXiv 2011.10369; the bar is chosen on checked rows",
    )

    language_model: str = "smollm2-135m-instruct"
    """The model that judges words: a name as in `model` (the original uses gpt2-large)."""
    bar: Annotated[float, Field(lt=0)] | None = None
    """Use this bar; null: choose among `bars`."""
    bars: Bars = (-3.0, -10.0, -30.0, -100.0, -300.0, -1000.0)
    """Bars to choose from; nearer to 0 is stronger. None of them is taken if all cost too much."""
    max_drop: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Accuracy on the checked rows that the bar may cost."""

    def assumptions(self) -> Assumptions:
        return self.default_assumptions if self.bar is None else replace(self.default_assumptions, clean_rows="none")

    def incompatibility(self, task: Plugin, attack: Plugin, rows: RowsSpec) -> str | None:
        return (
            None
            if rows.reserve or self.bar is not None
            else "ONION chooses its bar on checked rows: set rows.reserve, or give a bar"
        )

    def stages(self, build: Builder, rows: Stage) -> Stage:
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
        edits: dict[str, list[str | None]] = {"none": [row.text for row in rows]}
        return edits | {
            f"bar{bar:g}": [_without_outliers(row, scores["words"], bar) for row in rows] for bar in self.bars
        }

    def chosen(self, scores: Mapping[str, Scores]) -> dict[str, Any]:
        return {} if self.bar is None and "trial" not in scores else {"bar": self._bar(scores)}

    def _bar(self, scores: Mapping[str, Scores]) -> float | None:
        if self.bar is not None:
            return self.bar
        least = _accuracy(scores["trial"]["none"]) - self.max_drop
        good = [bar for bar in self.bars if _accuracy(scores["trial"][f"bar{bar:g}"]) >= least]
        return max(good, default=None)


def _without_outliers(row: Row, words: Scores, bar: float) -> str:
    """The text without the words whose removal lowers its perplexity by -bar or more."""
    found = words["texts"][text_key(row.text)]
    kept = [
        word
        for word, without in zip(row.text.split(" "), found["without"], strict=True)
        if without is None or without - found["whole"] > bar
    ]
    return " ".join(kept) or row.text


def _accuracy(rows: Mapping[str, Mapping[str, Any]]) -> float:
    """Share of rows whose likeliest label is their own."""
    right = [
        bool(max(range(len(row["scores"])), key=row["scores"].__getitem__) == row["label"]) for row in rows.values()
    ]
    return sum(right) / len(right)
