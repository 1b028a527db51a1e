"""Assignment of rows to batches: a pure function of (seed, epoch, samples seen), whatever the number of ranks.

There is no data-loader state to lose: a resumed run computes the same batches from the number of samples it has seen.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from p2p_dist.modeling.tokenization import Encoded


@dataclass(frozen=True)
class Schedule:
    """The order in which a run meets its rows. The last batch of an epoch may be smaller."""

    seed: int
    rows: int
    epochs: int
    global_batch: int
    turns: Sequence[int] = ()
    """Turn of every row in the first epoch, lower ones first; empty where all are equal."""

    @property
    def steps(self) -> int:
        return self.epochs * -(-self.rows // self.global_batch)

    def batches(self, samples_seen: int = 0) -> Iterator[list[int]]:
        """Row numbers of every batch that is left after `samples_seen` samples."""
        for epoch in range(samples_seen // self.rows, self.epochs):
            order = list(range(self.rows))
            Random(f"{self.seed}:order:{epoch}").shuffle(order)
            if self.turns and epoch == 0:
                order.sort(key=self.turns.__getitem__)
            start = samples_seen - epoch * self.rows if samples_seen > epoch * self.rows else 0
            for first in range(start, self.rows, self.global_batch):
                yield order[first : first + self.global_batch]


def micro_batches(rows: Sequence[int], rank: int, world: int, size: int | None) -> list[list[list[int]]]:
    """One rank's share of a step: `shares[micro-batch][run]` lists places in that run's global batch of `rows[run]`
    rows.

    A micro-batch has at most `size` rows of each run (None: all of the rank's share). Every rank gets the same number
    of micro-batches, so that collective operations meet; some may be empty.
    """
    shares = [range(rank, count, world) for count in rows]
    longest = max(-(-count // world) for count in rows)
    width = size or longest
    return [[list(places[first : first + width]) for places in shares] for first in range(0, longest, width)]


def spans_of(rows: "Sequence[Encoded]") -> list[range]:
    """Token ranges of the rows when a global batch is laid end to end."""
    ends = list(itertools.accumulate(len(row.ids) for row in rows))
    return [range(end - len(row.ids), end) for row, end in zip(rows, ends, strict=True)]
