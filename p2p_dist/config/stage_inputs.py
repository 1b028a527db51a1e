"""Inputs of stages by role, and the places of their files on this machine."""

from typing import Literal

from pydantic import ConfigDict, Field

from p2p_dist.config.study import Strict

Paths = dict[str, str]
"""Local paths by the option or part that they stand for."""


class SourceLocal(Strict):
    """Rows of a task on this machine (`data.sources.Source`)."""

    kind: Literal["files", "embedded", "hub"]
    place: str


class NoReads(Strict):
    """A stage without inputs."""


class AttackReads(Strict):
    """Score stage with the rewrites of an attack whose table is made within the study."""

    table: str | None = None


class RowsReads(Strict):
    """Input rows."""

    rows: str


class ScoredRowsReads(Strict):
    """Input rows, and score stages by roles that the defense chose."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, str]

    rows: str

    @property
    def scores(self) -> dict[str, str]:
        """Ids of the score stages by role."""
        return dict(self.__pydantic_extra__)


class AttackLocal(Strict):
    """Places of the task's rows and of the attack's files."""

    source: SourceLocal
    attack: Paths = Field(default_factory=dict)


class DefenseLocal(Strict):
    """Places of the defense's files."""

    defense: Paths = Field(default_factory=dict)


class ModelLocal(Strict):
    """Place of the base model."""

    model: Paths = Field(default_factory=dict)


class ScoreLocal(ModelLocal):
    """Places of the model and of an attack's files."""

    attack: Paths = Field(default_factory=dict)


class TrainReads(Strict):
    """Training rows and adapters (see `config.builder.Training`)."""

    rows: str
    start: str | None = None
    plus: str | None = None
    merged: str | None = None
    calibration: str | None = None
    teacher: str | None = None


class ScoreReads(Strict):
    """Rows to score, the adapter that scores them, or the adapter that a training of the method starts from."""

    rows: str
    adapter: str | None = None
    start: str | None = None


class EvalReads(Strict):
    """Adapter, test rows, score stage of a judge, and a reference adapter."""

    adapter: str
    rows: str
    judge: str | None = None
    reference: str | None = None


class EvalLocal(Strict):
    """Place of the reference model."""

    reference: Paths = Field(default_factory=dict)
