"""`result.json`, the source of truth for one evaluation: sealed when written, verified whenever read.

The seal is the SHA-256 of the file's bytes without the line that holds it; it detects a flipped bit and a number edited
by hand. Every index, table and picture is derived from these files.
"""

import hashlib
import os
import re
import uuid
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from p2p_dist.config.identity import stage_id
from p2p_dist.errors import Problem
from p2p_dist.results import atomic, confined, jsonfile
from p2p_dist.results.folder_handles import Damaged
from p2p_dist.results.records import check
from p2p_dist.results.rundir import StageDir

SCHEMA = 2
LARGEST = 16 << 20
USUAL = 0.98
"""A model has collapsed if at least this share of the clean rows gets one and the same answer."""
AGAIN = "run `p2p-dist run`, which sets it aside and evaluates again without training again"
_REDO = "run `p2p-dist run`, which sets it aside and runs the stage again"

_SEAL = re.compile(rb'^ "sha256": "([0-9a-f]{64})",\n', re.MULTILINE)

Count = Annotated[int, Field(ge=0, lt=1 << 53)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class RateEntry(_Part):
    """A rate: k of n rows."""

    k: Count
    n: Annotated[int, Field(ge=1, lt=1 << 53)]
    rate: Annotated[float, Field(ge=0, le=1)]

    @model_validator(mode="after")
    def _consistent(self) -> "RateEntry":
        if self.k > self.n or self.rate != self.k / self.n:
            raise ValueError(f"{self.k} of {self.n} is not {self.rate}")
        return self


class MeanEntry(_Part):
    """Mean of a score over n rows, such as ROUGE."""

    mean: float
    n: Annotated[int, Field(ge=1, lt=1 << 53)]


class SuiteEntry(_Part):
    """Rows of a suite and rows that were scored; a result in which they differ is invalid."""

    n_expected: Count
    n_scored: Count

    @model_validator(mode="after")
    def _whole(self) -> "SuiteEntry":
        if self.n_expected != self.n_scored:
            raise ValueError(f"{self.n_scored} of {self.n_expected} rows were scored")
        return self


class StageEntry(_Part):
    """Id, spec and inputs of the evaluation."""

    id: str
    reads: dict[str, str]
    spec: dict[str, Any]


class LabelsEntry(_Part):
    """Label space in which answers were scored (see `p2p_dist.data.build.LabelSpace`)."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    words: list[str]
    n_classes: Annotated[int, Field(ge=1, lt=1 << 31)]
    offset: Count
    shift: Count = 0
    target: Count | None

    def says(self, label: int) -> int:
        """Index in `words` of the word with which the deployed system answers a class."""
        return self.offset + (label + self.shift) % self.n_classes


class Result(BaseModel):
    """A finished evaluation. Unknown keys are ignored; the seal covers them."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    schema_: Annotated[int, Field(alias="schema")]
    stage: StageEntry
    labels: LabelsEntry | None = None
    """None for tasks whose answers are generated text."""
    rates: dict[str, RateEntry]
    means: dict[str, MeanEntry] = Field(default_factory=dict)
    histograms: dict[str, dict[str, dict[str, Count]]] = Field(default_factory=dict)
    suites: dict[str, SuiteEntry]
    counts: dict[str, Any]
    inputs: dict[str, str]
    dtype: str
    versions: dict[str, str]

    @property
    def collapsed(self) -> bool | None:
        """Verdict of `p2p_dist.results.resultfile.collapsed` on this model."""
        majority = self.rates.get("majority_answer")
        return collapsed(majority.rate if majority else None)

    @model_validator(mode="after")
    def _adds_up(self) -> "Result":
        if stage_id("eval", self.stage.spec, self.stage.reads) != self.stage.id:
            raise ValueError("the id does not match this spec and these inputs")
        for suite, table in self.histograms.items():
            if sum(sum(counts.values()) for counts in table.values()) != self.suites[suite].n_scored:
                raise ValueError(f"the histogram of {suite} does not count every row")
        return self


def collapsed(majority_answer: float | None) -> bool | None:
    """Decide whether a model has collapsed: (almost) every clean row gets the same answer.

    `majority_answer` is the share of rows with the most frequent answer. Accuracy and attack rates of a collapsed model
    say nothing about a defense, so it is marked wherever its rates are shown and never averaged away (reference: paper
    table 1, where a retrained model is "always positive"). None where the share was not measured.
    """
    return None if majority_answer is None else majority_answer >= USUAL


def of_unknown_origin(counts: Mapping[str, Any]) -> bool:
    """True if a run's rows are some that nobody has said to be clean: those of a user's own task or files."""
    by_origin = (origins for origins in counts.values() if isinstance(origins, Mapping))
    return "benign_of_unknown_origin" in counts or any("unknown" in origins for origins in by_origin)


def seal(body: Mapping[str, Any]) -> bytes:
    """Bytes of a result file: the body, its schema version and its seal. Raises ValueError for an invalid body."""
    versioned = {**body, "schema": SCHEMA}
    content = atomic.to_json({**versioned, "sha256": hashlib.sha256(atomic.to_json(versioned)).hexdigest()})
    Result.model_validate_json(content)
    return content


def read(stage: StageDir) -> Result | Problem | None:
    """Read the result of an evaluation. Returns a Problem for an invalid one, None when there is none yet.

    Problems: E502 damaged or edited, E503 written by another version, E504 result of another evaluation, E507 two
    different results for one id.
    """
    where = str(stage.result)
    try:
        content = confined.read_bytes(stage.result, LARGEST)
    except FileNotFoundError:
        return None
    except Damaged as error:
        return Problem("E502", f"damaged: {error}", where, AGAIN)
    if others := [name for name in confined.names(stage.path) if name.startswith(f"{stage.result.name}.conflict-")]:
        return Problem(
            "E507",
            f"two different results for one id, none is counted: {stage.result.name}, {', '.join(others)}",
            where,
            "compare them and delete one",
        )
    return parse(content, stage.path.name, where)


def parse(content: bytes, id_: str, where: str) -> Result | Problem:
    """Parse and verify the result of the evaluation with this id. Returns a Problem if it is invalid (see `read`)."""
    try:
        body = jsonfile.parse(content)
    except Damaged as error:
        return Problem("E502", f"damaged: {error}", where, AGAIN)
    if not isinstance(body, dict) or not isinstance(body.get("schema"), int):
        return Problem("E502", "not a result file of p2p-dist", where, AGAIN)
    if body["schema"] != SCHEMA:
        fix = "use the version that wrote it, or delete this file and run again; nothing is trained again"
        return Problem("E503", f"written in format {body['schema']}, this version reads {SCHEMA}", where, fix)
    lines = _SEAL.findall(content)
    if len(lines) != 1 or hashlib.sha256(_SEAL.sub(b"", content)).hexdigest().encode() != lines[0]:
        return Problem("E502", "damaged or edited: its content does not match its seal", where, AGAIN)
    try:
        result = check(Result, body)
    except Damaged as error:
        return Problem("E502", f"not a result: {error}", where, AGAIN)
    if result.stage.id != id_:
        what = f"the result of evaluation {result.stage.id} is in the folder of another"
        return Problem("E504", what, where, AGAIN)
    return result


def is_sealed(content: bytes, id_: str) -> bool:
    """True for the bytes of a result of the evaluation with this id whose seal holds: as `seal` wrote them, and that
    checks what it writes. Anything else is for `parse` to judge."""
    before, _, rest = content.partition(b'\n "sha256": "')
    if not (rest[64:67] == b'",\n' and b'\n "schema": %d,\n' % SCHEMA in content):
        return False
    if b'\n "stage": {\n  "id": "%s",\n' % id_.encode() not in content:
        return False
    return hashlib.sha256(before + b"\n" + rest[67:]).hexdigest().encode() == rest[:64]


def not_a_marker(stage: StageDir) -> Problem:
    """E502 for a stage whose marker is not what the stage writes, such as a folder in the place of a file."""
    kind = confined.kind_of(stage.marker)
    return Problem("E502", f"damaged: {kind} in the place of what the stage writes", str(stage.marker), _REDO)


def set_aside(stage: StageDir) -> Problem | None:
    """Rename a damaged or foreign result or marker, so that the stage runs again. Returns the problem, if there was
    one.

    The file stays in its folder. A result of another version and two conflicting results are not renamed.
    """
    problem = not_a_marker(stage) if stage.has_damaged_marker() else read(stage) if stage.kind == "eval" else None
    if not isinstance(problem, Problem):
        return None
    if problem.code in ("E502", "E504"):
        name = f"{stage.marker.name}.damaged-{uuid.uuid4().hex[:8]}"
        with confined.writing(stage.path, create=False) as folder:
            os.rename(stage.marker.name, name, src_dir_fd=folder, dst_dir_fd=folder)
        return Problem(problem.code, f"{problem.what}; set aside as {name}", problem.where, problem.fix)
    return problem


def kept_aside(stage: StageDir) -> list[str]:
    """Files in a stage's folder that `set_aside` renamed."""
    pattern = re.compile(re.escape(stage.marker.name) + r"\.damaged-[0-9a-f]{8}")
    return [str(stage.path / name) for name in confined.names(stage.path) if pattern.fullmatch(name)]
