"""Shared by filters of training rows: what they keep, as `Defended`, and the bound on what a class may lose."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from p2p_dist.data.defense import Defended
from p2p_dist.data.example import Row, by_id


def without(rows: Sequence[Row], dropped: Collection[str], max_drop: float, counts: Mapping[str, Any]) -> Defended:
    """The rows without the dropped ones, which the filter does not trust.

    A class that would lose more than the share `max_drop` keeps all its rows, and the manifest says so
    (`classes_given_up`); rows that are answered with text are one class.
    """
    sizes = Counter(row.label for row in rows)
    losses = Counter(row.label for row in rows if row.id in dropped)
    given_up = {label for label, loss in losses.items() if loss > max_drop * sizes[label]}
    train = by_id(row for row in rows if row.id not in dropped or row.label in given_up)
    kept = {
        "kept": len(train),
        "dropped": len(rows) - len(train),
        "clean_rows_used": 0,
        "classes_given_up": sorted(given_up),
    }
    return Defended(train, [], {**kept, **counts}, frozenset(row.id for row in train))
