"""Data behind the rates: predictions row by row, training curves, rows of text; read when a table or picture asks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from p2p_dist.config.training_axis import model_of
from p2p_dist.data.answer_parsing import without_prefix
from p2p_dist.data.built import LabelSpace
from p2p_dist.errors import Problem, UserError
from p2p_dist.evaluation.generation_metrics import outcome
from p2p_dist.evaluation.metrics import outcomes
from p2p_dist.report.groups import Group, group
from p2p_dist.report.plots import style
from p2p_dist.results import datastore, predictions, provenance
from p2p_dist.results.collect import Collected, RunState, read_resolved
from p2p_dist.results.predictions import Prediction
from p2p_dist.results.resultfile import LabelsEntry, Result
from p2p_dist.results.rundir import RunDir, StageDir

Found = TypeVar("Found")


@dataclass(frozen=True)
class Answer:
    """A text that a model wrote, the gold answer, and what is yes or no about it (see
    `evaluation.generation_metrics.outcome`)."""

    text: str
    reference: str
    solved: bool | None
    says_target: bool | None
    prefixed: bool = False
    """True if it begins with the defender's prefix; false where there is none."""


TESTED = ("ca_ext", "asr_ext")
AGAIN = "delete the evaluation's folder and run again; nothing is trained again"


class StudyData:
    """A collected study with its folder behind it. A file that turns out to be damaged when it is read joins the
    study's problems, and what it would have said is missing."""

    def __init__(self, folder: RunDir, collected: Collected, titles: Mapping[str, str]):
        self.folder, self.collected, self.titles = folder, collected, titles
        self._outcomes: dict[str, dict[str, dict[str, bool]]] = {}

    @cached_property
    def groups(self) -> list[Group]:
        """Runs without their seeds."""
        return group(self.collected.runs)

    @cached_property
    def tones(self) -> dict[str, style.Tone]:
        """Colour, marker and dash pattern by defense of the study."""
        return style.tones(run.cell["defense"] for run in self.collected.runs)

    @cached_property
    def resolved(self) -> dict[str, Any]:
        return read_resolved(self.folder)

    @cached_property
    def specs(self) -> dict[str, Mapping[str, Any]]:
        """Every stage of the study as `resolved.json` has it, by id."""
        return {stage["id"]: stage for stage in self.resolved["stages"]}

    def result(self, run: RunState) -> Result | None:
        return self.collected.results.get(run.ids.get("eval") or "")

    def outcomes(self, run: RunState) -> dict[str, dict[str, bool]]:
        """For `asr_ext` and `ca_ext`, which rows count, by row id; paired tests compare them. Empty when it is not
        evaluated."""
        result, id_ = self.result(run), run.ids.get("eval") or ""
        if result is not None and id_ not in self._outcomes:
            hits_by_rate = self._of_text(run) if result.labels is None else self._of_labels(id_, result.labels)
            self._outcomes[id_] = {
                name: hits_by_rate.get(name, {})
                for name in TESTED
                if name in result.rates and self._agrees(result, name, hits_by_rate.get(name, {}))
            }
        return self._outcomes.get(id_, {})

    def _agrees(self, result: Result, name: str, hits: Mapping[str, bool]) -> bool:
        """True if the rows reproduce the rate of the result, else note a problem: predictions have no checksum."""
        rate, counts = result.rates[name], (sum(hits.values()), len(hits))
        if counts == (rate.k, rate.n):
            return True
        what = (
            f"its rows give {name} as {counts[0]} of {counts[1]}, the result says {rate.k} of {rate.n}; no test rests "
            "on them"
        )
        self._note(Problem("E515", what, str(self.folder.at("eval", result.stage.id).predictions), AGAIN))
        return False

    def _note(self, *problems: Problem) -> None:
        self.collected.problems.extend(problem for problem in problems if problem not in self.collected.problems)

    def _read(self, read: Callable[[], Found]) -> Found | None:
        """Return the result of `read`, or None for a damaged file, which joins the study's problems."""
        try:
            return read()
        except UserError as error:
            self._note(*error.problems)
            return None

    def _said(self, id_: str, labels: LabelsEntry, suites: Sequence[str]) -> dict[str, list[Prediction]]:
        """The predictions of these suites, as far as each of their rows is one over these labels."""
        stage = self.folder.at("eval", id_)
        rows_by_suite = self._read(lambda: predictions.read(stage, suites)) or {}
        words = len(labels.words)
        foreign = [
            name
            for name, rows in rows_by_suite.items()
            if any(len(row.scores) != words or not (row.label < words > (row.top or 0)) for row in rows)
        ]
        for name in foreign:
            self._note(
                Problem("E515", f"not predictions over {words} labels", str(stage.predictions / f"{name}.jsonl"), AGAIN)
            )
        return {name: rows for name, rows in rows_by_suite.items() if name not in foreign}

    def _of_labels(self, id_: str, labels: LabelsEntry) -> dict[str, dict[str, bool]]:
        rows = self._said(id_, labels, ("clean", "triggered"))
        return {
            name: dict(zip((row.id for row in rows[outcome.suite]), outcome.hits, strict=True))
            for name, outcome in outcomes(rows, LabelSpace(**labels.model_dump())).items()
            if name in TESTED and outcome.suite in rows
        }

    def _of_text(self, run: RunState) -> dict[str, dict[str, bool]]:
        solved = {id_: row.solved for id_, row in self.answers(run, "clean").items() if row.solved is not None}
        hit_target = {
            id_: row.says_target for id_, row in self.answers(run, "triggered").items() if row.says_target is not None
        }
        return {name: hits for name, hits in (("ca_ext", solved), ("asr_ext", hit_target)) if hits}

    def answers(self, run: RunState, suite: str) -> dict[str, Answer]:
        """Texts of the run's model for each row of a suite, by row id; empty where it was not asked for text."""
        result = self.result(run)
        if result is None or result.labels is not None:
            return {}
        stage = self.folder.at("eval", result.stage.id)
        written = self._read(lambda: predictions.read_generated(stage, (suite,))) or {}
        asked, space = self._read(lambda: datastore.suite(self._rows(result), suite)) or (None, None)
        if asked is None or space is None:
            return {}
        rows = {row.id: row for row in asked.rows}
        return {
            line.id: Answer(
                line.text,
                line.reference,
                *outcome(line.text, rows[line.id], space, asked.prefix),
                without_prefix(line.text, asked.prefix)[1],
            )
            for line in written.get(suite, ())
            if line.id in rows
        }

    def _rows(self, result: Result) -> StageDir:
        """The stage with the rows that were evaluated: built, or edited by a defense."""
        id_ = result.stage.reads["rows"]
        return self.folder.at(self.specs[id_]["kind"] if id_ in self.specs else "data", id_)

    def predictions(self, run: RunState, suite: str) -> list[Prediction]:
        """Label predictions of the run's model for a suite's rows; empty when it has not been evaluated."""
        result = self.result(run)
        return self._said(result.stage.id, result.labels, (suite,)).get(suite, []) if result and result.labels else []

    def texts(self, run: RunState, suite: str) -> dict[str, str]:
        """The rows of a suite by id, as the model reads them without its prompt."""
        result = self.result(run)
        if result is None or "rows" not in result.stage.reads:
            return {}
        rows = self._rows(result)
        return (self._read(lambda: datastore.texts(rows, suite)) or {}) if rows.is_done() else {}

    def last_launch(self) -> dict[str, Any]:
        """Command, versions and code of the last launch, as far as they are known."""
        launches = self._read(lambda: provenance.launches(self.folder))
        return launches[-1] if launches else {}

    def metrics(self, id_: str) -> list[dict[str, Any]]:
        """Metrics of a training, one mapping per optimizer step; damaged lines are left out and noted (E516)."""
        stage = self.folder.at("train", id_)
        if (problem := stage.metrics_problem()) is not None:
            self._note(problem)
        return stage.all_metrics()

    def parameters(self, model: str) -> int | None:
        """Weights of a model of the study, by its label in a cell, where its shape is known."""
        count: int | None = self.resolved.get("models", {}).get(model_of(model), {}).get("parameters")
        return count
