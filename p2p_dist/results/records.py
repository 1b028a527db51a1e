"""JSON files that stand beside the truth: what a stage cost, where an attempt ran and how it ended, and what launched a
study.

None of them holds a result, so a damaged or foreign one is named and counts as absent; nothing else stops for it.
"""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from p2p_dist.errors import Problem

FIX = "delete it when you have looked at it; no result depends on it"


class _File(BaseModel):
    """Numbers are finite; keys beside the named ones are for people."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, strict=True)


class Cost(_File):
    """`cost.json`: what a stage took on the machine that did it. Seconds include training before a resume; energy and
    memory are of the last attempt."""

    started: float | None = None
    seconds: float
    gpu_seconds: float | None = None
    energy_joules: float | None = None
    cohort: int = 1
    ranks: int = 1
    steps: int | None = None
    rows: int | None = None
    tokens: int | None = None
    peak_memory_mib: float | None = None
    host: str | None = None
    device: str | None = None
    code: str | None = None


class Placement(_File):
    """`placement.json` of an attempt: its stages, when it was started (seconds since 1970) and what it was given."""

    stages: list[str]
    started: float | None = None


class Ending(_File):
    """`exit.json` of an attempt: its exit code, when that was seen, and the scheduler's reason where it is not a good
    end."""

    code: int
    ended: float | None = None
    reason: str = ""


class Launches(_File):
    """`provenance.json` of a study: command, versions and code of every launch, oldest first."""

    launches: list[dict[str, Any]]


class _Run(_File):
    cell: dict[str, str]
    stages: list[str]
    train: str
    eval: str
    floor: str | None


class _Stage(_File):
    id: str
    kind: str
    spec: dict[str, Any]
    reads: dict[str, str]


class Resolved(_File):
    """`resolved.json` of a study: its runs and stages with everything filled in."""

    name: str
    description: str
    runs: list[_Run]
    stages: list[_Stage]


def read(path: Path, form: type[_File], problems: list[Problem]) -> dict[str, Any]:
    """The content of a file of this form; empty when there is none, or when it is not one (E514, appended to
    `problems`)."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
        form.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
    except ValueError as error:
        why = str(error)
    else:
        return dict(content)
    problems.append(Problem("E514", f"damaged or foreign, and left out: {why}", str(path), FIX))
    return {}
