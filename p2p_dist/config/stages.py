"""Typed stages: what a worker knows of a stage, parsed once from its `spec.json`.

A planner builds plain `Stage` objects, whose spec is hashed as it is; `parse` turns one into the class of its kind.
Unknown keys are refused, so that a spec of a newer version is never carried out in part.
"""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, InstanceOf, JsonValue, TypeAdapter, ValidationError, model_validator

from p2p_dist.config.graph import Kind, Stage, once_per_stage
from p2p_dist.config.methods import (
    Alignment,
    CleanGenDecoding,
    ConfidenceRule,
    Objective,
    Reparametrization,
    WeightEdit,
    WeightedSum,
)
from p2p_dist.config.score_methods import ScoreMethod
from p2p_dist.config.stage_inputs import (
    AttackLocal,
    AttackReads,
    DefenseLocal,
    EvalLocal,
    EvalReads,
    ModelLocal,
    NoReads,
    RowsReads,
    ScoredRowsReads,
    ScoreLocal,
    ScoreReads,
    TrainReads,
)
from p2p_dist.config.study import PLAIN_PROMPT, Names, Probes, PromptSpec, RowsSpec, Strict, TrainSpec, added
from p2p_dist.errors import Exit, Problem, UserError

ModelIdentity = dict[str, JsonValue]
"""Identity of a model (`config.model.ModelRef.identity`)."""
_OWN_FIELDS = {"stage", "reads", "local"}
_FIX = "use the version of p2p-dist that planned the study, or run it again in another folder (--runs-dir)"


class PluginSpec(Strict):
    """Name and options of a plug-in; the plug-in checks its options itself."""

    model_config = ConfigDict(extra="allow")

    name: str
    plugin_sha256: str | None = None
    """Digest of the code of an external plug-in (`registry.CODE`)."""

    @property
    def options(self) -> dict[str, JsonValue]:
        """Options without the name and the digest."""
        return dict(self.model_extra or {})


class TypedStage(Strict):
    """Base of the stages. Fields are the keys of the spec, beside the inputs by role and the local paths."""

    kind: ClassVar[Kind]

    stage: InstanceOf[Stage]
    """The stage as `spec.json` holds it."""

    @property
    def id(self) -> str:
        """Id of the stage."""
        return self.stage.id


class AttackStage(TypedStage):
    """Rows of a task after an attack."""

    kind: ClassVar[Kind] = "data"
    step: Literal["attack"]
    task: PluginSpec
    rows: RowsSpec
    source: str
    """Digest of the task's rows."""
    origin: Literal["unknown"] | None = None
    """unknown: files that the study names take the place of the rows that the task publishes."""
    attack: PluginSpec
    seed: int | None
    train_rows: Literal["clean"] | None = None
    prompt: PromptSpec = added(PLAIN_PROMPT)
    reads: AttackReads
    local: AttackLocal


class DefenseStage(TypedStage):
    """Rows as a defense rewrites them."""

    kind: ClassVar[Kind] = "data"
    step: Literal["defend"]
    defense: PluginSpec
    seed: int
    phase: str | None = None
    reads: ScoredRowsReads
    local: DefenseLocal


class ExtraSuitesStage(TypedStage):
    """Rows with the test suites that the study adds."""

    kind: ClassVar[Kind] = "data"
    step: Literal["probe"]
    suites: Probes
    reads: RowsReads
    local: NoReads


DataStage = Annotated[AttackStage | DefenseStage | ExtraSuitesStage, Field(discriminator="step")]
"""Rows, by the step that makes them."""


class EditStage(TypedStage):
    """Test suites as a test-time defense rewrites them."""

    kind: ClassVar[Kind] = "edit"
    defense: PluginSpec
    phase: Literal["trial"] | None = None
    reads: ScoredRowsReads
    local: DefenseLocal


class TrainStage(TypedStage):
    """A training of one adapter."""

    kind: ClassVar[Kind] = "train"
    model: ModelIdentity
    train: TrainSpec
    seed: int
    stop_after_steps: Annotated[int, Field(ge=0)] | None = None
    objective: Objective | None = None
    prune: WeightEdit | None = None
    weighted: WeightedSum | None = None
    align: Alignment | None = None
    reparametrized: Reparametrization | None = None
    reads: TrainReads
    local: ModelLocal


class ScoreStage(TypedStage):
    """Numbers for each row: by an adapter, by a model as it is, or by a model that the method trains."""

    kind: ClassVar[Kind] = "score"
    method: ScoreMethod
    model: ModelIdentity | None = None
    train: TrainSpec | None = None
    seed: int | None = None
    reads: ScoreReads
    local: ScoreLocal

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if (self.reads.adapter is None) == (self.model is None):
            raise ValueError("needs either an adapter to read or a model")
        if (self.train is None) != (self.seed is None) or (self.train is not None and self.model is None):
            raise ValueError("a training needs a model and a seed")
        if self.reads.start is not None and self.train is None:
            raise ValueError("an adapter to start from needs a training")
        return self


class EvalStage(TypedStage):
    """Predictions and metrics of one adapter on test suites."""

    kind: ClassVar[Kind] = "eval"
    scoring: Literal["label_logits"]
    suites: Names | None = None
    """Suites by name; None for all."""
    reject: Annotated[ConfidenceRule | None, Field(alias="refuse")] = None
    decode: CleanGenDecoding | None = None
    reference: ModelIdentity | None = None
    reads: EvalReads
    local: EvalLocal

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.reject is None) != (self.reads.judge is None):
            raise ValueError("a rule for rejection and a judge need each other")
        references = (self.reference is not None) + (self.reads.reference is not None)
        if references != (self.decode is not None):
            raise ValueError("decoding needs one reference, and greedy decoding none")
        return self


AnyStage = AttackStage | DefenseStage | ExtraSuitesStage | EditStage | TrainStage | ScoreStage | EvalStage
_SCHEMAS: dict[Kind, TypeAdapter[AnyStage]] = {
    "data": TypeAdapter(DataStage),
    "edit": TypeAdapter(EditStage),
    "train": TypeAdapter(TrainStage),
    "score": TypeAdapter(ScoreStage),
    "eval": TypeAdapter(EvalStage),
}


@once_per_stage
def parse(stage: Stage) -> AnyStage:
    """The stage as the class of its kind. Raises UserError E290, one problem per key, for a spec that this version
    does not know."""
    what = f"{stage.kind} stage {stage.id}"
    if clash := sorted(_OWN_FIELDS & stage.spec.keys()):
        raise _unreadable(*(f"{what}: {key}: unknown key" for key in clash))
    fields = {**stage.spec, "stage": stage, "reads": dict(stage.reads), "local": dict(stage.local)}
    try:
        return _SCHEMAS[stage.kind].validate_python(fields)
    except ValidationError as error:
        raise _unreadable(*(f"{what}: {_described(one['loc'], one['msg'])}" for one in error.errors())) from error


def training(stage: Stage) -> TrainStage | ScoreStage | None:
    """The stage as one that trains a model: a training, or a score method that trains one; None for any other."""
    if stage.kind not in ("train", "score"):
        return None
    typed = parse(stage)
    return typed if isinstance(typed, TrainStage | ScoreStage) and typed.train is not None else None


def _described(location: tuple[int | str, ...], message: str) -> str:
    return f"{'.'.join(map(str, location))}: {message}" if location else message


def _unreadable(*problems: str) -> UserError:
    return UserError(*(Problem("E290", what, "spec.json", _FIX) for what in problems), exit_code=Exit.INTEGRITY)
