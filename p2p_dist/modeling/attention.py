"""Attention for packed rows: no padding anywhere but inside the attention kernel.

A batch is `[K, T]`: K runs of a cohort, each with its rows laid end to end in T tokens. Every linear layer then works on
real tokens only. Attention alone needs rows apart, so it spreads them to `[N, L]` (N rows, L the longest), runs the
causal kernel without a mask, since padding on the right is never looked at, and packs the answer again.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "p2p_packed"


@dataclass(frozen=True)
class PackedRows:
    """Where the rows of one packed batch lie.

    Shapes: `spread` [N*L] indexes the K*T tokens (slots behind a row's end repeat its last token), `pack` [K*T] indexes
    the N*L slots (filler tokens behind a run's last row point at slot 0; nothing reads what they compute).
    """

    rows: int
    longest: int
    spread: torch.Tensor
    pack: torch.Tensor


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
        raise ValueError(f"a row of {packed.longest} tokens is longer than the model's attention window {sliding_window}")
    runs, heads, tokens, width = query.shape
    q, k, v = (_spread(states, packed) for states in (query, key, value))
    out = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=key.shape[1] != heads)
    flat = out.transpose(1, 2).reshape(packed.rows * packed.longest, heads * width).to(query.dtype)
    return flat.index_select(0, packed.pack).view(runs, tokens, heads, width), None


def _spread(states: torch.Tensor, packed: PackedRows) -> torch.Tensor:
    """[K, H, T, D] -> [N, H, L, D]."""
    runs, heads, tokens, width = states.shape
    flat = states.transpose(1, 2).reshape(runs * tokens, heads * width)
    # The CPU kernel's backward pass is 4-5 times slower in bfloat16 than in float32.
    wide = flat.float() if flat.device.type == "cpu" else flat
    rows = wide.index_select(0, packed.spread)
    return rows.view(packed.rows, packed.longest, heads, width).transpose(1, 2)


def register() -> None:
    """Make the kernel known to transformers as `attn_implementation="p2p_packed"`."""
    AttentionInterface.register(NAME, packed_attention)
