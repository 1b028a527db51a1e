"""`result.json`, the truth about one evaluation: sealed when it is written, checked whenever it is read.

The seal is the SHA-256 of the bytes of the file without the line that holds it, so that one flipped bit or one number
edited by hand is noticed. Every index, table and picture derives from these.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from p2p_dist.config.identity import stage_id
from p2p_dist.errors import Problem
from p2p_dist.results import atomic
from p2p_dist.results.rundir import StageDir

SCHEMA = 2
LARGEST = 16 << 20
USUAL = 0.98
"""From this share of clean rows with one and the same answer on, a model has collapsed."""
AGAIN = "`p2p-dist run` sets it aside and evaluates again; nothing is trained again"

_SEAL = re.compile(rb'^ "sha256": "([0-9a-f]{64})",\n', re.MULTILINE)

Count = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class RateEntry(_Part):
    """k of n rows."""

    k: Count
    n: Annotated[int, Field(ge=1)]
    rate: Annotated[float, Field(ge=0, le=1)]

    @model_validator(mode="after")
    def _consistent(self) -> "RateEntry":
        if self.k > self.n or self.rate != self.k / self.n:
            raise ValueError(f"{self.k} of {self.n} is not {self.rate}")
        return self


class MeanEntry(_Part):
    """The mean of a figure over n rows, such as ROUGE."""

    mean: float
    n: Annotated[int, Field(ge=1)]


class SuiteEntry(_Part):
    """How many rows a suite has, and how many were scored: always the same number, or it is no result."""

    n_expected: Count
    n_scored: Count

    @model_validator(mode="after")
    def _whole(self) -> "SuiteEntry":
        if self.n_expected != self.n_scored:
            raise ValueError(f"{self.n_scored} of {self.n_expected} rows were scored")
        return self


class StageEntry(_Part):
    """The evaluation's own id, spec and inputs."""

    id: str
    reads: dict[str, str]
    spec: dict[str, Any]


class LabelsEntry(_Part):
    """How answers were read (see `p2p_dist.data.build.LabelSpace`)."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    words: list[str]
    n_classes: Annotated[int, Field(ge=1)]
    offset: Count
    shift: Count = 0
    target: Count | None

    def says(self, label: int) -> int:
        """The word with which the deployed system answers a class, as an index of `words`."""
        return self.offset + (label + self.shift) % self.n_classes


class Result(BaseModel):
    """A finished evaluation. Keys that this version does not know are kept out of the way: the seal covers them."""

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
        """See `collapsed`."""
        usual = self.rates.get("majority_answer")
        return collapsed(usual.rate if usual else None)

    @model_validator(mode="after")
    def _adds_up(self) -> "Result":
        if stage_id("eval", self.stage.spec, self.stage.reads) != self.stage.id:
            raise ValueError("the id does not stand for this spec and these inputs")
        for suite, table in self.histograms.items():
            if sum(sum(said.values()) for said in table.values()) != self.suites[suite].n_scored:
                raise ValueError(f"the histogram of {suite} does not count every row")
        return self


def collapsed(majority_answer: float | None) -> bool | None:
    """Whether a model gives (almost) every clean row one answer, from the share of rows that get it, so that its
    accuracy and attack rates say nothing about a defense: such a model is named wherever its rates are, never averaged
    away (reference: paper table 1, where a retrained model is "always positive"). None where the share was not
    measured."""
    return None if majority_answer is None else majority_answer >= USUAL


def seal(body: Mapping[str, Any]) -> bytes:
    """The bytes of a result file: the body, its schema version and its seal. Raises ValueError for a body that is no
    result."""
    versioned = {**body, "schema": SCHEMA}
    content = atomic.to_json({**versioned, "sha256": hashlib.sha256(atomic.to_json(versioned)).hexdigest()})
    Result.model_validate_json(content)
    return content


def read(stage: StageDir) -> Result | Problem | None:
    """What is in the folder of an evaluation: its result, what is wrong with it, or None when there is none yet.

    Problems: E502 damaged or edited, E503 written by another version, E504 the result of another evaluation, E507 two
    different results for one id.
    """
    if not stage.result.is_file():
        return None
    where = str(stage.result)
    if others := sorted(name for name in os.listdir(stage.path) if name.startswith(f"{stage.result.name}.conflict-")):
        return Problem(
            "E507",
            f"two different results for one id, none is counted: {stage.result.name}, {', '.join(others)}",
            where,
            "keep one of them",
        )
    if stage.result.stat().st_size > LARGEST:
        return Problem("E502", f"larger than {LARGEST >> 20} MiB", where, AGAIN)
    return parse(stage.result.read_bytes(), stage.path.name, where)


def parse(content: bytes, id_: str, where: str) -> Result | Problem:
    """The result that these bytes are, for the evaluation of this id; or a Problem (see `read`)."""
    try:
        body = json.loads(content, parse_constant=_no_number)
    except ValueError as error:
        return Problem("E502", f"damaged: {error}", where, AGAIN)
    if not isinstance(body, dict) or not isinstance(body.get("schema"), int):
        return Problem("E502", "not a result of this program", where, AGAIN)
    if body["schema"] != SCHEMA:
        fix = "report with the version that wrote it, or delete this file and run again: nothing is trained again"
        return Problem("E503", f"written in format {body['schema']}, this version reads {SCHEMA}", where, fix)
    lines = _SEAL.findall(content)
    if len(lines) != 1 or hashlib.sha256(_SEAL.sub(b"", content)).hexdigest().encode() != lines[0]:
        return Problem("E502", "damaged or edited: its content does not match its own seal", where, AGAIN)
    try:
        result = Result.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        return Problem("E502", f"not a result: {'.'.join(map(str, first['loc']))}: {first['msg']}", where, AGAIN)
    if result.stage.id != id_:
        return Problem("E504", f"the result of evaluation {result.stage.id} in the folder of another", where, AGAIN)
    return result


def set_aside(stage: StageDir) -> Problem | None:
    """Rename a damaged or foreign result, so that the evaluation is done again. Returns what was wrong, if anything
    was.

    The file is kept beside its place. Another version's result and one of two that differ are left where they are.
    """
    found = read(stage)
    if not isinstance(found, Problem):
        return None
    if found.code in ("E502", "E504"):
        digest = hashlib.sha256(stage.result.read_bytes()).hexdigest()[:8]
        kept = stage.result.with_name(f"{stage.result.name}.damaged-{digest}")
        stage.result.rename(kept)
        return Problem(found.code, f"{found.what}; set aside as {kept.name}", found.where, found.fix)
    return found


def kept_aside(stage: StageDir) -> list[str]:
    """Files that were set aside in an evaluation's folder earlier."""
    pattern = re.compile(re.escape(stage.result.name) + r"\.damaged-[0-9a-f]{8}")
    return (
        sorted(str(stage.path / name) for name in os.listdir(stage.path) if pattern.fullmatch(name))
        if stage.path.is_dir()
        else []
    )


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")
