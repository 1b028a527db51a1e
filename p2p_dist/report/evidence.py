"""What lies beneath the rates: predictions row by row, training curves, rows of text; read when a table or picture asks."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from p2p_dist.data.answers import without_prefix
from p2p_dist.data.build import LabelSpace
from p2p_dist.evaluation.generated import outcome
from p2p_dist.evaluation.metrics import outcomes
from p2p_dist.report.groups import Group, group
from p2p_dist.results import datastore, predictions
from p2p_dist.results.collect import Collected, RunState, read_resolved
from p2p_dist.results.predictions import Prediction
from p2p_dist.results.resultfile import LabelsEntry, Result
from p2p_dist.results.rundir import RunDir


@dataclass(frozen=True)
class Answer:
    """A text that a model wrote, the gold answer, and what is yes or no about it (see `evaluation.generated.outcome`)."""

    text: str
    reference: str
    solved: bool | None
    says_target: bool | None
    prefixed: bool = False
    """Whether it begins with the defender's prefix; false where there is none."""


class Evidence:
    """A collected study with its folder behind it."""

    def __init__(self, folder: RunDir, found: Collected, titles: Mapping[str, str]):
        self.folder, self.found, self.titles = folder, found, titles
        self._outcomes: dict[str, dict[str, dict[str, bool]]] = {}

    @cached_property
    def groups(self) -> list[Group]:
        """Runs without their seeds."""
        return group(self.found.runs)

    @cached_property
    def resolved(self) -> dict[str, Any]:
        return read_resolved(self.folder)

    @cached_property
    def specs(self) -> dict[str, Mapping[str, Any]]:
        """Every stage of the study as `resolved.json` has it, by id."""
        return {stage["id"]: stage for stage in self.resolved["stages"]}

    def result(self, run: RunState) -> Result | None:
        return self.found.results.get(run.ids.get("eval") or "")

    def outcomes(self, run: RunState) -> dict[str, dict[str, bool]]:
        """For `asr_ext` and `ca_ext`, which rows count, by row id; paired tests compare them. Empty when it is not evaluated."""
        result, id_ = self.result(run), run.ids.get("eval") or ""
        if result is not None and id_ not in self._outcomes:
            self._outcomes[id_] = self._of_text(run) if result.labels is None else self._of_labels(id_, result.labels)
        return self._outcomes.get(id_, {})

    def _of_labels(self, id_: str, labels: LabelsEntry) -> dict[str, dict[str, bool]]:
        rows = predictions.read(self.folder.at("eval", id_), ("clean", "triggered"))
        return {
            name: dict(zip((row.id for row in rows[outcome.suite]), outcome.hits, strict=True))
            for name, outcome in outcomes(rows, LabelSpace(**labels.model_dump())).items()
            if name in ("ca_ext", "asr_ext") and outcome.suite in rows
        }

    def _of_text(self, run: RunState) -> dict[str, dict[str, bool]]:
        solved = {id_: row.solved for id_, row in self.answers(run, "clean").items() if row.solved is not None}
        said = {id_: row.says_target for id_, row in self.answers(run, "triggered").items() if row.says_target is not None}
        return {name: hits for name, hits in (("ca_ext", solved), ("asr_ext", said)) if hits}

    def answers(self, run: RunState, suite: str) -> dict[str, Answer]:
        """What the run's model wrote for each row of a suite, by row id; empty where it was not asked for text."""
        result = self.result(run)
        if result is None or result.labels is not None:
            return {}
        written = predictions.read_generated(self.folder.at("eval", result.stage.id), (suite,)).get(suite, [])
        asked, space = datastore.suite(self.folder.find(result.stage.reads["rows"]), suite)
        if space is None:
            return {}
        rows = {row.id: row for row in asked.rows}
        return {
            line.id: Answer(line.text, line.reference, *outcome(line.text, rows[line.id], space, asked.prefix), without_prefix(line.text, asked.prefix)[1])
            for line in written
        }

    def predictions(self, run: RunState, suite: str) -> list[Prediction]:
        """What the run's model says about a suite's rows; empty when it has not been evaluated."""
        return predictions.read(self.folder.at("eval", run.ids.get("eval") or ""), (suite,)).get(suite, []) if self.result(run) else []

    def texts(self, run: RunState, suite: str) -> dict[str, str]:
        """The rows of a suite by id, as the model reads them without its prompt."""
        result = self.result(run)
        if result is None or "rows" not in result.stage.reads:
            return {}
        rows = self.folder.at("data", result.stage.reads["rows"])
        return datastore.texts(rows, suite) if rows.is_done() else {}

    def parameters(self, model: str) -> int | None:
        """Weights of a model of the study, where its shape is known."""
        found: int | None = self.resolved.get("models", {}).get(model, {}).get("parameters")
        return found
