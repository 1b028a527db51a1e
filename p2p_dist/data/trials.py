"""Choice of a setting of a test-time defense by what it costs the undefended model on trusted rows."""

from collections.abc import Iterable, Mapping
from typing import Any

from p2p_dist.data.defense import Scores

UNCHANGED = "none"
"""Name of the trial that edits nothing."""


def affordable(trial: Scores, names: Iterable[str], max_drop: float) -> list[str]:
    """Trials, by name, that cost at most `max_drop` of the accuracy on unchanged texts.

    `trial` has the label scores of the edited trusted rows, by the name of the edit.
    """
    least = accuracy(trial[UNCHANGED]) - max_drop
    return [name for name in names if accuracy(trial[name]) >= least]


def accuracy(rows: Mapping[str, Mapping[str, Any]]) -> float:
    """Share of rows whose most probable label is their own."""
    correct = [
        bool(max(range(len(row["scores"])), key=row["scores"].__getitem__) == row["label"]) for row in rows.values()
    ]
    return sum(correct) / len(correct)
