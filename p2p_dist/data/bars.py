"""Test-time defenses that delete the words of a text beyond a bar, which they choose on trusted rows."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from p2p_dist.config.builder import Builder
from p2p_dist.config.graph import Stage
from p2p_dist.config.score_methods import LabelScores
from p2p_dist.config.study import Plugin, RowsSpec
from p2p_dist.data.defense import Assumptions, EditDefense, Scores, no_known_rows
from p2p_dist.data.example import Kind, Row
from p2p_dist.data.task import Task
from p2p_dist.data.trials import UNCHANGED, affordable


class BarDefense(EditDefense):
    """Base of the defenses that delete words by a bar. A subclass has the options `bar` (None: choose), `bars` and
    `max_drop`, in its own order and with its own bounds."""

    kinds: ClassVar[tuple[Kind, ...]] = ("classification",)
    title: ClassVar[str]
    """Name of the method in messages."""
    lower_is_stronger: ClassVar[bool]
    """True if a lower bar deletes more words."""

    if TYPE_CHECKING:
        bar: float | None
        bars: tuple[float, ...]
        max_drop: float

    @abstractmethod
    def word_scores(self, build: Builder, rows: Stage, adapter: Stage) -> Stage:
        """Numbers for each word of the test texts and of the trusted texts; `adapter` is the undefended one."""

    @abstractmethod
    def without_words(self, row: Row, words: Scores, bar: float) -> str | None:
        """The text without the words beyond the bar; None where it cannot be edited."""

    def assumptions(self) -> Assumptions:
        if self.bar is None:
            return self.default_assumptions
        return replace(self.default_assumptions, clean_rows="none")

    def incompatibility(self, task: Task, attack: Plugin, rows: RowsSpec) -> str | None:
        if self.bar is not None:
            return None
        return no_known_rows(rows, f"{self.title} chooses its bar on trusted or held-out rows")

    def stages(self, build: Builder, rows: Stage) -> Stage:
        """Numbers of words, a trial of every bar, and the edit by the chosen one."""
        adapter, rows = build.trained(rows), build.tested(rows)
        scores = {"words": self.word_scores(build, rows, adapter)}
        if self.bar is None:
            trial = build.edited(rows, scores, "trial")
            scores["trial"] = build.scored(trial, LabelScores(sets=("suites",)), adapter)
        return build.evaluated(adapter, build.edited(rows, scores))

    def edit(self, rows: Sequence[Row], scores: Mapping[str, Scores]) -> list[str | None]:
        bar = self._chosen_bar(scores)
        return [row.text if bar is None else self.without_words(row, scores["words"], bar) for row in rows]

    def trials(self, rows: Sequence[Row], scores: Mapping[str, Scores]) -> dict[str, list[str | None]]:
        unchanged: list[str | None] = [row.text for row in rows]
        return {UNCHANGED: unchanged} | {
            _name(bar): [self.without_words(row, scores["words"], bar) for row in rows] for bar in self.bars
        }

    def chosen(self, scores: Mapping[str, Scores]) -> dict[str, Any]:
        return {} if self.bar is None and "trial" not in scores else {"bar": self._chosen_bar(scores)}

    def _chosen_bar(self, scores: Mapping[str, Scores]) -> float | None:
        """The strongest bar that costs at most `max_drop` accuracy; None where all of them cost more."""
        if self.bar is not None:
            return self.bar
        names = affordable(scores["trial"], map(_name, self.bars), self.max_drop)
        choices = [bar for bar in self.bars if _name(bar) in names]
        return (min if self.lower_is_stronger else max)(choices, default=None)


def _name(bar: float) -> str:
    return f"bar{bar:g}"
