"""Predictions of a model for every test row: JSON lines beside a result, from which its rates can be recomputed."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from p2p_dist.errors import Exit, user_error
from p2p_dist.results import atomic
from p2p_dist.results.rundir import StageDir

Line = TypeVar("Line")


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


def read(stage: StageDir, suites: Sequence[str] | None = None) -> dict[str, list[Prediction]]:
    """Predictions of an evaluation by suite: of `suites` those that exist, or all.

    Raises UserError E501 for an invalid line.
    """
    return _read(stage, suites, _prediction)


def read_generated(stage: StageDir, suites: Sequence[str] | None = None) -> dict[str, list[Generated]]:
    """Generated answers of an evaluation by suite; otherwise as `read`."""
    return _read(
        stage,
        suites,
        lambda row: Generated(row["id"], row["text"], row["reference"], row["finished"], row.get("replaced")),
    )


def _prediction(row: dict[str, Any]) -> Prediction:
    label, top = row["label"], row["top"]
    if not isinstance(label, int) or not isinstance(top, int | None):
        raise TypeError(f"label {label!r} and likeliest label {top!r}")
    return Prediction(row["id"], label, tuple(map(float, row["scores"])), top, row.get("rejected"))


def _read(
    stage: StageDir, suites: Sequence[str] | None, make: Callable[[dict[str, Any]], Line]
) -> dict[str, list[Line]]:
    paths = sorted(stage.predictions.glob("*.jsonl")) if stage.predictions.is_dir() else []
    return {
        path.stem: [_line(line, str(path), make) for line in path.read_bytes().splitlines()]
        for path in paths
        if suites is None or path.stem in suites
    }


def _line(line: bytes, where: str, make: Callable[[dict[str, Any]], Line]) -> Line:
    try:
        return make(json.loads(line))
    except (ValueError, KeyError, TypeError) as error:
        raise user_error(
            "E501", f"not a prediction: {error}", where, "delete the evaluation's folder and run again", Exit.INTEGRITY
        ) from error
