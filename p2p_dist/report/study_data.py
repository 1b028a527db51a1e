"""Data behind the rates: predictions row by row, training curves, rows of text; read when a table or picture asks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

from p2p_dist.config.training_axis import model_of
from p2p_dist.data.answer_parsing import without_prefix
from p2p_dist.data.built import LabelSpace
from p2p_dist.errors import Problem, UserError
from p2p_dist.evaluation.generation_metrics import outcome
from p2p_dist.evaluation.metrics import Rate, outcomes, paired_rates
from p2p_dist.report.groups import Group, group
from p2p_dist.report.plots import style
from p2p_dist.results import datastore, predictions, provenance
from p2p_dist.results.collect import Collected, RunState
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


SUITES = ("clean", "triggered", "clean_nobt", "triggered_nobt")
"""Suites whose rates are known row by row."""
PAIRED = ("asr_untriggered", "asr_only_triggered", "asr_only_untriggered")
"""Rates of triggered rows beside the same rows without the trigger."""
MOST_RUNS = 300
"""Above this many runs rates are not read row by row, which takes every prediction of the study."""
AGAIN = "delete the evaluation's folder and run again; nothing is trained again"


class StudyData:
    """A collected study with its folder behind it. A file that turns out to be damaged when it is read joins the
    study's problems, and what it would have said is missing."""

    def __init__(self, folder: RunDir, collected: Collected, titles: Mapping[str, str]):
        self.folder, self.titles = folder, titles
        self._outcomes: dict[str, dict[str, dict[str, bool]]] = {}
        self.collected = collected
        self.collected = replace(collected, runs=[self._with_paired_rates(run) for run in collected.runs])

    @cached_property
    def groups(self) -> list[Group]:
        """Runs without their seeds."""
        return group(self.collected.runs, self.hits)

    @property
    def is_read_by_row(self) -> bool:
        """True if the study is small enough for its rates to be read row by row."""
        return len(self.collected.runs) <= MOST_RUNS

    def hits(self, run: RunState, rate: str) -> Mapping[str, bool]:
        """Outcomes of a rate row by row; `floor` is the attack success of the clean model. Empty where not known."""
        if not self.is_read_by_row:
            return {}
        if rate == "floor":
            return self._outcomes_of(run.ids.get("floor") or "").get("asr_ext", {})
        return self.outcomes(run).get(rate, {})

    def _with_paired_rates(self, run: RunState) -> RunState:
        """The run with the rates of its triggered rows without the trigger, from its predictions where its result,
        which is of an older version, has none."""
        if "asr_ext" not in run.rates or "asr_untriggered" in run.rates or not self.is_read_by_row:
            return run
        rates = {
            name: Rate(sum(hits.values()), len(hits)).to_json()
            for name, hits in self.outcomes(run).items()
            if name.startswith(PAIRED)
        }
        return replace(run, rates={**run.rates, **rates}) if rates else run

    @cached_property
    def tones(self) -> dict[str, style.Tone]:
        """Colour, marker and dash pattern by defense of the study."""
        return style.tones(run.cell["defense"] for run in self.collected.runs)

    @cached_property
    def specs(self) -> dict[str, Mapping[str, Any]]:
        """Every stage of the study as `resolved.json` has it, by id."""
        return {stage["id"]: stage for stage in self.collected.resolved["stages"]}

    def result(self, run: RunState) -> Result | None:
        return self.collected.results.get(run.ids.get("eval") or "")

    def outcomes(self, run: RunState) -> dict[str, dict[str, bool]]:
        """Outcomes of every rate by row id; paired tests compare them. Empty when the run is not evaluated."""
        return self._outcomes_of(run.ids.get("eval") or "")

    def _outcomes_of(self, id_: str) -> dict[str, dict[str, bool]]:
        """Outcomes of an evaluation: of the rates that its rows reproduce, and of the paired rates of an older result
        if they reproduce both suites."""
        result = self.collected.results.get(id_)
        if result is not None and id_ not in self._outcomes:
            hits_by_rate = self._of_text(result) if result.labels is None else self._of_labels(id_, result.labels)
            agreeing = {
                name: hits
                for name, hits in hits_by_rate.items()
                if name in result.rates and self._agrees(result, name, hits)
            }
            if "asr_ext" in agreeing and agreeing.keys() & {"ca_ext", "majority_answer"}:
                agreeing |= {name: hits for name, hits in hits_by_rate.items() if name.startswith(PAIRED)}
            self._outcomes[id_] = agreeing
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
        rows = self._said(id_, labels, SUITES)
        return {
            name: dict(zip((row.id for row in rows[outcome.suite]), outcome.hits, strict=True))
            for name, outcome in outcomes(rows, LabelSpace(**labels.model_dump())).items()
            if outcome.suite in rows
        }

    def _of_text(self, result: Result) -> dict[str, dict[str, bool]]:
        answers = {suite: self._answers(result, suite) for suite in ("clean", "triggered")}
        solved = {id_: row.solved for id_, row in answers["clean"].items() if row.solved is not None}
        says_target = {
            suite: {id_: row.says_target for id_, row in rows.items() if row.says_target is not None}
            for suite, rows in answers.items()
        }
        triggered = says_target["triggered"]
        paired = paired_rates("asr_ext", triggered, says_target["clean"]) if triggered else {}
        hits_by_rate = {"ca_ext": solved, "asr_ext": triggered}
        hits_by_rate |= {name: dict(zip(triggered, hits, strict=True)) for name, hits in paired.items()}
        return {name: hits for name, hits in hits_by_rate.items() if hits}

    def answers(self, run: RunState, suite: str) -> dict[str, Answer]:
        """Texts of the run's model for each row of a suite, by row id; empty where it was not asked for text."""
        result = self.result(run)
        return self._answers(result, suite) if result is not None and result.labels is None else {}

    def _answers(self, result: Result, suite: str) -> dict[str, Answer]:
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
        count: int | None = self.collected.resolved.get("models", {}).get(model_of(model), {}).get("parameters")
        return count
