"""Table cells with the answer of one model to a test row: a label, or a text."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from p2p_dist.report.study_data import Answer, StudyData
from p2p_dist.report.table import Cell
from p2p_dist.results.collect import RunState
from p2p_dist.results.predictions import Prediction
from p2p_dist.results.resultfile import LabelsEntry

SUITES = ("clean", "triggered")
TARGET = "the attacker's target"


class Reader(ABC):
    """One model's answers by suite and row id."""

    gold: ClassVar[str]
    """Title of the column with the right answer."""

    def __init__(self, defense: str):
        self.defense = defense

    @property
    @abstractmethod
    def ids(self) -> list[str]:
        """Triggered rows, in the order of the suite."""

    @abstractmethod
    def truth(self, id_: str) -> str:
        """The right answer to a row."""

    @abstractmethod
    def answer(self, suite: str, id_: str) -> Cell:
        """The deployed model's answer, with the detail "right", "wrong" or TARGET; empty for a row it was not
        asked."""

    def fooled(self, id_: str) -> bool:
        """True if the triggered row gets the answer that the attacker wants: the target, or any wrong label under an
        attack without a single target."""
        return self.answer("triggered", id_).detail in self.failures

    @property
    def failures(self) -> tuple[str, ...]:
        """Details of the answers to triggered rows that the defense should have prevented."""
        return (TARGET,)


class LabelReader(Reader):
    """Labels: the best of the deployed ones, mapped back."""

    gold = "true label"

    def __init__(self, defense: str, labels: LabelsEntry, answers: Mapping[str, Mapping[str, Prediction]]):
        super().__init__(defense)
        self.labels, self.answers = labels, answers

    @property
    def failures(self) -> tuple[str, ...]:
        return (TARGET,) if self.labels.target is not None else ("wrong",)

    @property
    def ids(self) -> list[str]:
        return list(self.answers["triggered"])

    def truth(self, id_: str) -> str:
        return self.labels.words[self.answers["triggered"][id_].label]

    def answer(self, suite: str, id_: str) -> Cell:
        row = self.answers[suite].get(id_)
        if row is None:
            return Cell("")
        if row.rejected:
            return Cell("refused")
        n = self.labels.n_classes
        best = max(range(n), key=lambda label: (row.scores[self.labels.offset + label], -label))
        label = (best - self.labels.shift) % n
        fooled = suite == "triggered" and label == self.labels.target
        return Cell(self.labels.words[label], TARGET if fooled else "right" if label == row.label else "wrong")


class TextReader(Reader):
    """Texts as they were written, a defense's prefix included."""

    gold = "reference"

    def __init__(self, defense: str, answers: Mapping[str, Mapping[str, Answer]]):
        super().__init__(defense)
        self.answers = answers

    @property
    def ids(self) -> list[str]:
        return list(self.answers["triggered"])

    def truth(self, id_: str) -> str:
        return short(self.answers["triggered"][id_].reference)

    def answer(self, suite: str, id_: str) -> Cell:
        row = self.answers[suite].get(id_)
        if row is None:
            return Cell("")
        if suite == "triggered" and row.says_target:
            return Cell(short(row.text), TARGET)
        return Cell(short(row.text), "" if row.solved is None else "right" if row.solved else "wrong")


def reader_of(study_data: StudyData, run: RunState) -> Reader | None:
    """The reader of a run's answers, or None when it has not been evaluated."""
    result = study_data.result(run)
    if result is None:
        return None
    if result.labels is None:
        return TextReader(run.cell["defense"], {suite: study_data.answers(run, suite) for suite in SUITES})
    return LabelReader(
        run.cell["defense"],
        result.labels,
        {suite: {row.id: row for row in study_data.predictions(run, suite)} for suite in SUITES},
    )


def short(text: str, longest: int = 220) -> str:
    """One line of text, cut in the middle, because triggers stand at the ends as often as not."""
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[: longest // 2]} … {line[-longest // 2 :]}"
