"""Predictions of a model for every test row: JSON lines beside a result, from which its rates can be recomputed."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from p2p_dist.errors import Exit, user_error
from p2p_dist.results import atomic, checksums, confined, jsonfile
from p2p_dist.results.folder_handles import Damaged
from p2p_dist.results.rundir import StageDir

Line = TypeVar("Line")
_LARGEST = 4 << 30
"""Bytes of the largest file of predictions that is read."""
_AGAIN = "delete the evaluation's folder and run again; nothing is trained again"


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predicted label of one row. `scores` are log-probabilities over the whole vocabulary, of the first token of each
    label word (`scoring: label_logits` in the result) or of the whole word (`whole_string`); `top` is the label whose
    tokens are the likeliest of the vocabulary, or None when other tokens are."""

    id: str
    label: int
    scores: tuple[float, ...]
    top: int | None
    rejected: bool | None = None
    """True if the defense refuses to answer this row; None when no defense judges rows."""

    def to_json(self) -> dict[str, Any]:
        judged = {} if self.rejected is None else {"rejected": self.rejected}
        return {"id": self.id, "label": self.label, "scores": list(self.scores), "top": self.top, **judged}


@dataclass(frozen=True, slots=True)
class Generated:
    """Generated answer to one row. `reference` is the gold answer; `finished` is False where the answer was cut off at
    the maximum length."""

    id: str
    text: str
    reference: str
    finished: bool
    replaced: int | None = None
    """Number of tokens that a defense replaced; None where no defense replaces tokens."""

    def to_json(self) -> dict[str, Any]:
        replaced = {} if self.replaced is None else {"replaced": self.replaced}
        return {"id": self.id, "text": self.text, "reference": self.reference, "finished": self.finished, **replaced}


def write(stage: StageDir, suite: str, rows: Sequence[Prediction | Generated]) -> None:
    """Write the predictions of one suite, in the order of its rows."""
    lines = "".join(json.dumps(row.to_json()) + "\n" for row in rows)
    atomic.write_bytes(stage.predictions / f"{suite}.jsonl", lines.encode())


def seal(stage: StageDir, suites: Sequence[str]) -> None:
    """Record the checksums of the predictions of these suites, before the result is published."""
    checksums.write(
        stage, {f"{stage.predictions.name}/{suite}.jsonl": stage.predictions / f"{suite}.jsonl" for suite in suites}
    )


def read(stage: StageDir, suites: Sequence[str] | None = None) -> dict[str, list[Prediction]]:
    """Predictions of an evaluation by suite: of `suites` those that exist, or all.

    Raises UserError E501 for an invalid line.
    """
    return _read(stage, suites, _prediction)


def read_generated(stage: StageDir, suites: Sequence[str] | None = None) -> dict[str, list[Generated]]:
    """Generated answers of an evaluation by suite; otherwise as `read`."""
    return _read(stage, suites, _generated)


def _prediction(row: dict[str, Any]) -> Prediction:
    label, top, rejected = row["label"], row["top"], row.get("rejected")
    if type(label) is not int or not (top is None or type(top) is int) or not isinstance(rejected, bool | None):
        raise TypeError(f"label {label!r}, likeliest label {top!r}, rejected {rejected!r}")
    return Prediction(_text(row["id"]), label, tuple(map(float, row["scores"])), top, rejected)


def _generated(row: dict[str, Any]) -> Generated:
    replaced, finished = row.get("replaced"), row["finished"]
    if not (replaced is None or type(replaced) is int) or not isinstance(finished, bool):
        raise TypeError(f"replaced {replaced!r}, finished {finished!r}")
    return Generated(_text(row["id"]), _text(row["text"]), _text(row["reference"]), finished, replaced)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _read(
    stage: StageDir, suites: Sequence[str] | None, make: Callable[[dict[str, Any]], Line]
) -> dict[str, list[Line]]:
    names = [name for name in confined.names(stage.predictions) if name.endswith(".jsonl")]
    paths = [stage.predictions / name for name in names if suites is None or name.removesuffix(".jsonl") in suites]
    return {path.stem: [_line(line, str(path), make) for line in _content(stage, path).splitlines()] for path in paths}


def _content(stage: StageDir, path: Path) -> bytes:
    """Checked content of a file of predictions. Raises UserError E501, and as `checksums.require` does."""
    try:
        return checksums.content(stage, path, _LARGEST)
    except (Damaged, FileNotFoundError) as error:
        raise user_error("E501", f"no predictions: {error}", str(path), _AGAIN, Exit.INTEGRITY) from error


def _line(line: bytes, where: str, make: Callable[[dict[str, Any]], Line]) -> Line:
    try:
        return make(jsonfile.parse(line))
    except (ValueError, KeyError, TypeError) as error:
        raise user_error("E501", f"not a prediction: {error}", where, _AGAIN, Exit.INTEGRITY) from error
