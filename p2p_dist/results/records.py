"""Records beside the results: cost of a stage, placement and end of an attempt, launches of a study (JSON files).

None of them holds a result, so a damaged or foreign record is reported and treated as missing; nothing stops for it.
"""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from p2p_dist.errors import Problem

FIX = "inspect it, then delete it; no result depends on it"


class _File(BaseModel):
    """Base of the records: numbers are finite; further keys are allowed and ignored."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, strict=True)


class Cost(_File):
    """`cost.json`: time, energy and memory of a stage on the machine that ran it. Seconds include training before a
    resume; energy and memory are those of the last attempt."""

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
    """`placement.json` of an attempt: its stages, its start (seconds since 1970) and its resources."""

    stages: list[str]
    started: float | None = None


class Ending(_File):
    """`exit.json` of an attempt: its exit code, its end (seconds since 1970), and the scheduler's reason for a failure
    or a retry."""

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
    """`resolved.json` of a study: its runs and stages with all defaults and presets resolved."""

    name: str
    description: str
    runs: list[_Run]
    stages: list[_Stage]


def read(path: Path, form: type[_File], problems: list[Problem]) -> dict[str, Any]:
    """Content of a record; empty when the file is missing or invalid (E514, appended to `problems`)."""
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
    problems.append(Problem("E514", f"damaged or foreign file, ignored: {why}", str(path), FIX))
    return {}
