"""Batches without padding: the rows of each run laid end to end, the runs of a cohort below each other."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from p2p_dist.modeling.attention import PackedRows
from p2p_dist.modeling.encode import Encoded

BUCKET = 64
"""Packed widths are multiples of this: kernels that are compiled per shape (oneDNN, CUDA graphs) meet few shapes."""


@dataclass(frozen=True)
class Batch:
    """One packed batch of a cohort of K runs.

    Shapes: `ids` and `positions` [K, T]; `answers` [A] indexes the K*T tokens at which a label token is predicted;
    `targets` [A] are those tokens; `owner` [A] is the run (0..K-1) of each. `tokens` are the real ones of each run.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    packed: PackedRows
    answers: torch.Tensor
    targets: torch.Tensor
    owner: torch.Tensor
    tokens: list[int]

    def to(self, device: torch.device) -> "Batch":
        move = [x.to(device, non_blocking=True) for x in (self.ids, self.positions, self.answers, self.targets, self.owner)]
        packed = PackedRows(self.packed.rows, self.packed.longest, self.packed.spread.to(device), self.packed.pack.to(device))
        return Batch(move[0], move[1], packed, move[2], move[3], move[4], self.tokens)


def pack(runs: Sequence[Sequence[Encoded]]) -> Batch:
    """Lay the rows of each run end to end, runs below each other; a shorter run is filled up with token 0."""
    lengths = [[len(row.ids) for row in rows] for rows in runs]
    width = -(-max(sum(of_run) for of_run in lengths) // BUCKET) * BUCKET
    longest = max(max(of_run, default=0) for of_run in lengths)
    ids = torch.zeros(len(runs), width, dtype=torch.long)
    positions = torch.zeros(len(runs), width, dtype=torch.long)
    pack_to = torch.zeros(len(runs) * width, dtype=torch.long)
    starts: list[int] = []
    answers: list[int] = []
    slot = 0
    for run, rows in enumerate(runs):
        at = run * width
        for row in rows:
            n = len(row.ids)
            column = at - run * width
            ids[run, column : column + n] = torch.tensor(row.ids)
            positions[run, column : column + n] = torch.arange(n)
            pack_to[at : at + n] = torch.arange(slot * longest, slot * longest + n)
            answers += range(at + n - len(row.targets), at + n)
            starts.append(at)
            at, slot = at + n, slot + 1
    flat_lengths = torch.tensor([n for of_run in lengths for n in of_run])
    spread = torch.tensor(starts)[:, None] + torch.minimum(torch.arange(longest)[None], flat_lengths[:, None] - 1)
    return Batch(
        ids=ids,
        positions=positions,
        packed=PackedRows(slot, longest, spread.reshape(-1), pack_to),
        answers=torch.tensor(answers),
        targets=torch.tensor([token for rows in runs for row in rows for token in row.targets]),
        owner=torch.tensor([run for run, rows in enumerate(runs) for row in rows for _ in row.targets]),
        tokens=[sum(of_run) for of_run in lengths],
    )
