"""Attention for packed rows: no padding anywhere but inside the attention kernel.

A batch is `[K, T]`: K runs of a cohort, each with its rows laid end to end in T tokens. Every linear layer then works
on real tokens only. Attention alone needs rows apart, so it spreads them to `[N, L]` (N rows, L the longest), runs the
causal kernel without a mask, since padding on the right is never looked at, and packs the answer again.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "p2p_packed"


@dataclass(frozen=True)
class Group:
    """Rows of like length. Shapes: `spread` [N*L] indexes the K*T tokens, slots behind a row's end repeat its last;
    `mask` [N, 1, L, L] is true where a token (third axis) looks at another (fourth), None for plain causal rows."""

    rows: int
    longest: int
    spread: torch.Tensor
    mask: torch.Tensor | None = None

    def to(self, device: torch.device) -> "Group":
        return Group(
            self.rows, self.longest, self.spread.to(device), None if self.mask is None else self.mask.to(device)
        )


@dataclass(frozen=True)
class PackedRows:
    """Positions of the rows of one packed batch.

    Shape: `pack` [K*T] indexes the slots of all groups, one after the other; filler tokens behind a run's last row
    point at slot 0, and nothing reads what they compute.
    """

    groups: tuple[Group, ...]
    pack: torch.Tensor

    @cached_property
    def spread(self) -> torch.Tensor:
        """Of all groups, one after the other."""
        return torch.cat([group.spread for group in self.groups])

    @property
    def longest(self) -> int:
        return max(group.longest for group in self.groups)

    def to(self, device: torch.device) -> "PackedRows":
        return PackedRows(tuple(group.to(device) for group in self.groups), self.pack.to(device))


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    packed: PackedRows | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each row. Shapes: query [K, H, T, D], key/value [K, G, T, D] -> [K, T, H, D]."""
    if packed is None or attention_mask is not None:
        raise ValueError("packed attention needs `packed=PackedRows(...)` and no attention mask")
    if sliding_window is not None and sliding_window < packed.longest:
        raise ValueError(
            f"a row of {packed.longest} tokens is longer than the model's attention window {sliding_window}"
        )
    runs, heads, tokens, width = query.shape
    # The CPU kernel's backward pass is 4-5 times slower in bfloat16 than in float32.
    dtype = torch.float32 if query.device.type == "cpu" else query.dtype
    # Query, key and value travel together and through all groups at once: a short step is as long as the number of its
    # operations.
    together = torch.cat(
        [states.transpose(1, 2).reshape(runs * tokens, -1) for states in (query, key, value)], dim=1
    ).to(dtype)
    slots = together.index_select(0, packed.spread).split([group.rows * group.longest for group in packed.groups])
    widths = [states.shape[1] * width for states in (query, key, value)]
    shared_heads = key.shape[1] != heads
    answers = []
    for group, mine in zip(packed.groups, slots, strict=True):
        rows_q, rows_k, rows_v = (
            states.view(group.rows, group.longest, -1, width).transpose(1, 2) for states in mine.split(widths, dim=1)
        )
        causal, mask = group.mask is None, group.mask
        out = scaled_dot_product_attention(
            rows_q, rows_k, rows_v, attn_mask=mask, is_causal=causal, scale=scaling, enable_gqa=shared_heads
        )
        answers.append(out.transpose(1, 2).reshape(group.rows * group.longest, heads * width))
    flat = torch.cat(answers) if len(answers) > 1 else answers[0]
    return flat.index_select(0, packed.pack).to(query.dtype).view(runs, tokens, heads, width), None


def register() -> None:
    """Make the kernel known to transformers as `attn_implementation="p2p_packed"`."""
    AttentionInterface.register(NAME, packed_attention)
