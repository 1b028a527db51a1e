"""Numbers of rows by class, from which a study is checked before any row is built."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol


class Labelled(Protocol):
    """A row with a label."""

    @property
    def label(self) -> int: ...


@dataclass(frozen=True)
class RowCounts:
    """Rows of a run. The trusted ones (`reserve`) are training rows too.

    After an attack that moves rows between more than two classes, `train_by_class` has upper bounds: the classes that
    lose rows are not known before they are drawn.
    """

    train: int
    train_by_class: Mapping[int, int]
    reserve_by_class: Mapping[int, int]
    test_by_class: Mapping[int, int] = field(default_factory=dict)
    n_classes: int = 0
    """Number of classes; 0 where answers are text."""
    attacked: int = 0
    """Training rows that the attacker changed or added."""

    @property
    def reserve(self) -> int:
        """Number of trusted rows."""
        return sum(self.reserve_by_class.values())

    @staticmethod
    def of(
        train: Iterable[Labelled], reserve: Iterable[Labelled], n_classes: int, test: Iterable[Labelled] = ()
    ) -> "RowCounts":
        """Counts of rows."""
        by_class = Counter(row.label for row in train)
        return RowCounts(by_class.total(), by_class, _by_class(reserve), _by_class(test), n_classes)

    def free(self) -> dict[int, int]:
        """Training rows by class that an attacker may touch."""
        return {label: count - self.reserve_by_class.get(label, 0) for label, count in self.train_by_class.items()}

    def moved(self, count: int, label: int, eligible: Collection[int]) -> "RowCounts":
        """Counts after `count` rows of the eligible classes got this label; exact where one class is eligible."""
        by_class = dict(self.train_by_class)
        for other in eligible if len(eligible) == 1 else ():
            by_class[other] -= count
        by_class[label] = by_class.get(label, 0) + count
        return replace(self, train_by_class=by_class, attacked=self.attacked + count)

    def added(self, count: int, labels: Iterable[int]) -> "RowCounts":
        """Counts after the attacker added `count` rows, each with one of these labels (an upper bound for each)."""
        by_class = {**self.train_by_class, **{label: self.train_by_class.get(label, 0) + count for label in labels}}
        return replace(self, train=self.train + count, train_by_class=by_class, attacked=self.attacked + count)


def _by_class(rows: Iterable[Labelled]) -> dict[int, int]:
    return dict(Counter(row.label for row in rows))
