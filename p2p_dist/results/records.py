"""Records beside the results: cost of a stage, placement and end of an attempt, launches of a study (JSON files).

None of them holds a result, so a damaged or foreign record is reported and treated as missing; nothing stops for it.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from p2p_dist.config.expand import AXES
from p2p_dist.config.graph import Kind, Stage
from p2p_dist.config.identity import ID_LENGTH
from p2p_dist.errors import Problem
from p2p_dist.results import confined, jsonfile
from p2p_dist.results.confined import LARGEST_JSON
from p2p_dist.results.folder_handles import Damaged

FIX = "inspect it, then delete it; no result depends on it"


_AXES = frozenset(AXES)
Count = Annotated[int, Field(ge=0, lt=1 << 53)]
Number = Annotated[float, Field(gt=-1e15, lt=1e15)]
Checked = TypeVar("Checked", bound=BaseModel)


class _File(BaseModel):
    """Base of the records: numbers are finite; further keys are allowed and ignored."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, strict=True, defer_build=True)


class Cost(_File):
    """`cost.json`: time, energy and memory of a stage on the machine that ran it. Seconds include training before a
    resume; energy and memory are those of the last attempt."""

    started: Number | None = None
    seconds: Annotated[Number, Field(ge=0)]
    gpu_seconds: Annotated[Number, Field(ge=0)] | None = None
    energy_joules: Number | None = None
    cohort: Annotated[Count, Field(ge=1)] = 1
    ranks: Annotated[Count, Field(ge=1)] = 1
    threads: Annotated[Count, Field(ge=1)] | None = None
    steps: Count | None = None
    rows: Count | None = None
    tokens: Count | None = None
    peak_memory_mib: Number | None = None
    host: str | None = None
    device: str | None = None
    code: str | None = None
    topologies: list[str] = Field(default_factory=list)
    """Layouts of a training, one after the other."""


class Weights(_File):
    """`weights.json` of a training: statistics of its adapter (`p2p_dist.results.weight_features`)."""

    modules: dict[str, dict[str, Number]]
    norms: dict[str, Number]


class Placement(_File):
    """`placement.json` of an attempt: its stages, its start (seconds since 1970) and its resources."""

    stages: list[str]
    started: Number | None = None


class Ending(_File):
    """`exit.json` of an attempt: its exit code, its end (seconds since 1970), and the scheduler's reason for a failure
    or a retry."""

    code: Annotated[int, Field(ge=-1000, le=1000)]
    ended: Number | None = None
    reason: str = ""


class Started(_File):
    """One launch of a study."""

    command: list[str] = Field(default_factory=list)
    versions: dict[str, str] = Field(default_factory=dict)
    code: str = "unknown"
    at: Number = 0.0


class Launches(_File):
    """`provenance.json` of a study: command, versions and code of every launch, oldest first."""

    launches: list[Started]


class _Run(_File):
    cell: dict[str, str]
    stages: list[str]
    train: str
    eval: str
    floor: str | None
    needs: dict[str, str | bool | None] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.cell.keys() >= _AXES:
            raise ValueError(f"the cell has no {min(_AXES - self.cell.keys())}")
        seed = self.cell["seed"]
        if not (seed.removeprefix("-").isdecimal() and abs(int(seed)) < 1 << 63):
            raise ValueError("the seed is no number")
        return self


class _LeftOut(_File):
    cell: dict[str, str]
    reason: str


class _Stage(_File):
    id: str
    kind: Kind
    spec: dict[str, Any]
    reads: dict[str, str]
    local: dict[str, dict[str, str]] = Field(default_factory=dict)

    def checked(self) -> Stage:
        """The stage. Raises ValueError when the id is not that of the content, or TypeError for a value without stable
        bytes."""
        return Stage.from_json(
            {"id": self.id, "kind": self.kind, "spec": self.spec, "reads": self.reads, "local": self.local}
        )


class _Model(_File):
    parameters: Count | None = None


class Resolved(_File):
    """`resolved.json` of a study: its runs and stages with all defaults and presets resolved. Ids are computed again
    from the content, and every id that is named must be a stage."""

    name: str
    description: str
    runs: list[_Run]
    left_out: list[_LeftOut] = Field(default_factory=list)
    """Cells that read a file which was missing."""
    stages: list[_Stage]
    models: dict[str, _Model] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        kinds = {(stage := entry.checked()).id: stage.kind for entry in self.stages}
        for entry in self.stages:
            _refuse_unknown(f"stage {entry.id} reads", entry.reads.values(), kinds)
        _refuse_inconsistent(self.runs, kinds)
        return self


class StageEntries(BaseModel):
    """The stages of a `resolved.json` alone, none of them checked."""

    model_config = ConfigDict(extra="ignore", strict=True, defer_build=True)

    stages: list[dict[str, Any]]


class _NamedStage(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, defer_build=True)

    id: Annotated[str, Field(pattern=rf"^[0-9a-f]{{{ID_LENGTH}}}$")]
    """A name of a folder: no other form is read, since this id is not computed again."""
    kind: Kind


class Outline(BaseModel):
    """`resolved.json` of a study without what its stages do, which is not read: for the progress of large studies."""

    model_config = ConfigDict(extra="ignore", strict=True, defer_build=True)

    name: str
    description: str
    runs: list[_Run]
    stages: list[_NamedStage]
    left_out: list[_LeftOut] = Field(default_factory=list)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        kinds = {stage.id: stage.kind for stage in self.stages}
        _refuse_inconsistent(self.runs, kinds)
        return self


def _refuse_inconsistent(runs: Iterable[_Run], kinds: Mapping[str, Kind]) -> None:
    """Raises ValueError for a run with a stage that is not in the file, or is of another kind than its role."""
    for run in runs:
        _refuse_unknown("a run has", [*run.stages, run.train, run.eval, *([run.floor] if run.floor else [])], kinds)
        for role, id_ in (("train", run.train), ("eval", run.eval), ("eval", run.floor)):
            if id_ and kinds[id_] != role:
                raise ValueError(f"{id_} is {kinds[id_]}, not {role}")


def _refuse_unknown(who: str, ids: Iterable[str], kinds: Mapping[str, Kind]) -> None:
    for id_ in ids:
        if id_ not in kinds:
            raise ValueError(f"{who} stage {id_}, which is not in the file")


def stage_of(content: object) -> Stage:
    """The stage that `spec.json` holds. Raises ValueError for damaged or edited content."""
    return check(_Stage, content).checked()


def read_checked(path: Path, form: type[BaseModel], most: int = LARGEST_JSON) -> dict[str, Any]:
    """Content of a record of at most `most` bytes. Raises FileNotFoundError, and Damaged when it is invalid."""
    content = jsonfile.read_object(path, most)
    check(form, content)
    return content


def read_outline(path: Path, most: int) -> Outline:
    """The outline of a `resolved.json` of at most `most` bytes, parsed and checked in one pass. What is not plainly
    valid is judged as `read_checked` does, which takes longer, and raises the same; the depth of brackets is not
    looked at."""
    content = confined.read_bytes(path, most)
    if b"NaN" not in content and b"Infinity" not in content:
        try:
            return Outline.model_validate_json(content)
        except ValidationError:
            pass
    return check(Outline, jsonfile.parse(content))


def read_plain(name: str, handle: int, form: type[Checked]) -> Checked | None:
    """A record in an open folder, parsed and checked in one pass; None for one that is missing or not plainly valid,
    which `read` judges."""
    content = confined.content_of(name, handle, LARGEST_JSON)
    if content is None or b"NaN" in content or b"Infinity" in content:
        return None
    try:
        return form.model_validate_json(content)
    except ValidationError:
        return None


def read(path: Path, form: type[_File], problems: list[Problem]) -> dict[str, Any]:
    """Content of a record; empty when the file is missing or invalid (E514, appended to `problems`)."""
    try:
        return read_checked(path, form)
    except FileNotFoundError:
        return {}
    except Damaged as error:
        problems.append(Problem("E514", f"damaged or foreign file, ignored: {error}", str(path), FIX))
        return {}


def check(form: type[Checked], content: object) -> Checked:
    """The content as `form`. Raises Damaged with the first thing that is wrong."""
    try:
        return form.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise Damaged(f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")) from error
    except (TypeError, RecursionError) as error:
        raise Damaged(str(error)) from error
