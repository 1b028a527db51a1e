"""Count of triggers that are complete after tokenization and truncation, for training and test rows."""

from collections.abc import Iterable, Sequence

from p2p_dist.data.built import Built
from p2p_dist.data.example import Row
from p2p_dist.modeling.tokenization import Encoder

Whole = dict[str, int] | None
"""k of n triggered rows; None where there are none."""


def of_poisoned(encoder: Encoder, built: Built) -> Whole:
    """The poisoned rows that a model is trained on."""
    poisoned = {note.id for note in built.notes if note.origin == "poisoned"}
    return _whole(encoder, [row for row in built.train if row.id in poisoned])


def of_suites(encoder: Encoder, built: Built, names: Iterable[str]) -> dict[str, Whole]:
    """The triggered suites among these."""
    return {name: _whole(encoder, built.suites[name].rows) for name in names if built.suites[name].triggered}


def _whole(encoder: Encoder, rows: Sequence[Row]) -> Whole:
    return {"k": encoder.whole_triggers(rows), "n": len(rows)} if rows else None
