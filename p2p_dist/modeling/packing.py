"""Batches without padding: the rows of each run laid end to end, the runs of a cohort below each other."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from p2p_dist.modeling.attention import Group, PackedRows
from p2p_dist.modeling.tokenization import Encoded
from p2p_dist.modeling.transfer import sent
from p2p_dist.modeling.varlen_attention import RowEnds

FINEST, COARSEST = 8, 64
"""Packed widths are multiples of a power of two between these: kernels that are compiled per shape meet few shapes."""
GROUP_BY = 16
"""Attention pads rows to the longest of their group: lengths 1-16, 17-32, ... are the groups."""
GROUP_BY_ON_GPU = 64
"""The same on a GPU, on which a group costs operations to launch and padding next to nothing."""


def grouping(device: torch.device) -> int:
    """`group_by` of `pack` for a device."""
    return GROUP_BY if device.type == "cpu" else GROUP_BY_ON_GPU


@dataclass(frozen=True)
class Batch:
    """One packed batch of a cohort of K runs.

    Shapes: `ids` and `positions` [K, T]; `answers` [A] indexes the K*T tokens at which a label token is predicted;
    `targets` [A] are those tokens; `owner` [A] is the run (0..K-1) of each. `tokens` are the real ones of each run;
    `taught` [A, d] are a teacher's last hidden states at the answers, where the rows have them.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    packed: PackedRows
    answers: torch.Tensor
    targets: torch.Tensor
    owner: torch.Tensor
    tokens: list[int]
    taught: torch.Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device. All numbers go there in one copy, for which the host does not wait."""
        if device.type == self.ids.device.type:
            return self
        packed, spread = self.packed, self.packed.spread
        real_tokens = spread[packed.pack] == torch.arange(len(packed.pack))
        real_slots = packed.pack[spread] == torch.arange(len(spread))
        host = [self.ids, self.positions, self.answers, self.targets, self.owner, packed.pack]
        rows = RowEnds.of(packed.places, *self.ids.shape)
        host += [real_tokens.long(), real_slots.long(), rows.ends.long(), *(group.spread for group in packed.groups)]
        sizes = [tensor.numel() for tensor in host]
        copies = sent(torch.cat([tensor.reshape(-1) for tensor in host]), device).split(sizes)
        ids, positions, answers, targets, owner, slots, of_tokens, of_slots, ends, *spreads = copies
        is_plain = all(group.mask is None for group in packed.groups)
        rows = RowEnds(ends.int(), rows.longest)
        groups = tuple(group.to(device, spread) for group, spread in zip(packed.groups, spreads, strict=True))
        return Batch(
            ids.view_as(self.ids),
            positions.view_as(self.positions),
            PackedRows(groups, slots, packed.places, of_tokens, of_slots, ends=rows if is_plain else None),
            answers,
            targets,
            owner,
            self.tokens,
            None if self.taught is None else sent(self.taught, device),
        )


def pack(runs: Sequence[Sequence[Encoded]], group_by: int | None = GROUP_BY) -> Batch:
    """Lay the rows of each run end to end, runs below each other; a shorter run is filled up with token 0.

    Attention sees rows in groups whose lengths fall into the same multiple of `group_by`, or all together (None).
    """
    tokens = [sum(len(row.ids) for row in rows) for rows in runs]
    width = packed_width(max(tokens))
    # Lists until the end: a tensor operation per row would take longer than all of this.
    ids, positions = [0] * (len(runs) * width), [0] * (len(runs) * width)
    places: list[tuple[int, int]] = []
    answers: list[int] = []
    for run, rows in enumerate(runs):
        start = run * width
        for row in rows:
            n = len(row.ids)
            ids[start : start + n] = row.ids
            positions[start : start + n] = range(n)
            answers += range(start + n - len(row.targets), start + n)
            places.append((start, n))
            start += n
    return Batch(
        ids=torch.tensor(ids).view(-1, width),
        positions=torch.tensor(positions).view(-1, width),
        packed=_groups(places, len(ids), group_by),
        answers=torch.tensor(answers),
        targets=torch.tensor([token for rows in runs for row in rows for token in row.targets]),
        owner=torch.tensor([run for run, rows in enumerate(runs) for row in rows for _ in row.targets]),
        tokens=tokens,
        taught=_taught([row.taught for rows in runs for row in rows]),
    )


def _taught(states: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    present = [one for one in states if one is not None]
    return torch.cat(present) if present else None


def packed_width(tokens: int) -> int:
    """The width of a batch whose longest run has so many tokens: about a sixteenth more at most, where there are 128 or
    more."""
    step = min(COARSEST, max(FINEST, 1 << (tokens // 16).bit_length() >> 1))
    return -(-tokens // step) * step


def _groups(places: Sequence[tuple[int, int]], tokens: int, group_by: int | None) -> PackedRows:
    """Rows as (start, length) in the packed tokens, sorted into groups for attention."""
    sorted_: dict[int, list[tuple[int, int]]] = {}
    for start, n in places:
        sorted_.setdefault(0 if group_by is None else -(-n // group_by), []).append((start, n))
    groups = []
    pack_to = [0] * tokens
    slot = 0
    for _, rows in sorted(sorted_.items()):
        longest = max(n for _, n in rows)
        starts, lengths = (torch.tensor(column)[:, None] for column in zip(*rows, strict=True))
        groups.append(
            Group(len(rows), longest, (starts + torch.minimum(torch.arange(longest)[None], lengths - 1)).reshape(-1))
        )
        for start, n in rows:
            pack_to[start : start + n] = range(slot, slot + n)
            slot += longest
    return PackedRows(tuple(groups), torch.tensor(pack_to), tuple(places))
