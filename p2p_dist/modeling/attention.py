"""Attention for packed rows: no padding anywhere but inside the attention kernel.

A batch is `[K, T]`: K runs of a cohort, each with its rows laid end to end in T tokens. Every linear layer then works
on real tokens only. Attention alone needs rows apart, so it spreads them to `[N, L]` (N rows, L the longest), runs the
causal kernel without a mask, since padding on the right is never looked at, and packs the answer again. GPUs have a
kernel that needs no such detour (`modeling.varlen_attention`).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from p2p_dist.errors import user_error
from p2p_dist.modeling import varlen_attention
from p2p_dist.modeling.gather import Gather
from p2p_dist.modeling.key_value_cache import KeyValueCache, NextTokens
from p2p_dist.modeling.transfer import sent

NAME = "p2p_packed"
_WITHOUT_EFFECT = frozenset({"position_ids", "output_hidden_states"})
"""Arguments that models hand to every kernel and that change nothing in this one."""


@dataclass(frozen=True)
class Group:
    """Rows of like length. Shapes: `spread` [N*L] indexes the K*T tokens, slots behind a row's end repeat its last;
    `mask` [N, 1, L, L] is true where a token (third axis) looks at another (fourth), None for plain causal rows;
    `positions` [N, L] are those of the slots where they are not 0, 1, 2, ..."""

    rows: int
    longest: int
    spread: torch.Tensor
    mask: torch.Tensor | None = None
    positions: torch.Tensor | None = None
    windows: dict[int, torch.Tensor] = field(default_factory=dict, compare=False, repr=False)
    """Masks of sliding windows that layers have asked for."""

    def to(self, device: torch.device, spread: torch.Tensor | None = None) -> "Group":
        """The group on a device, where its `spread` may be already."""
        mask, positions = (None if part is None else sent(part, device) for part in (self.mask, self.positions))
        return Group(self.rows, self.longest, self.spread.to(device) if spread is None else spread, mask, positions)

    def mask_of(self, window: int | None) -> torch.Tensor | None:
        """Mask of a layer whose tokens look at the last `window` tokens, themselves included, [N or 1, 1, L, L]; None
        where that is plain causal attention."""
        if window is None or window >= self.longest:
            return self.mask
        if window not in self.windows:
            slots = torch.arange(self.longest, device=self.spread.device)[None]
            positions = slots if self.positions is None else self.positions
            near = (positions[:, :, None] - positions[:, None, :] < window)[:, None]
            causal = (slots[:, :, None] >= slots[:, None, :])[:, None] if self.mask is None else self.mask
            self.windows[window] = near & causal
        return self.windows[window]


@dataclass(frozen=True)
class PackedRows:
    """Positions of the rows of one packed batch.

    Shape: `pack` [K*T] indexes the slots of all groups, one after the other; filler tokens behind a run's last row
    point at slot 0, and nothing reads what they compute. `places` are the rows as (start, length) in the K*T tokens.
    `real_tokens` [K*T] and `real_slots` are 1 for a row's own tokens and 0 for filler; None where they are not known.
    `cache` takes the keys and values of rows that will be continued. `ends` are those of plain causal rows, on a GPU;
    None elsewhere. Rows that are known by their ends alone have no groups, and none is longer than `bound`.
    """

    groups: tuple[Group, ...]
    pack: torch.Tensor
    places: tuple[tuple[int, int], ...] = ()
    real_tokens: torch.Tensor | None = None
    real_slots: torch.Tensor | None = None
    cache: KeyValueCache | None = None
    ends: varlen_attention.RowEnds | None = None
    bound: int = 0

    @cached_property
    def spread(self) -> torch.Tensor:
        """Of all groups, one after the other."""
        return torch.cat([group.spread for group in self.groups])

    @property
    def longest(self) -> int:
        return max((group.longest for group in self.groups), default=self.bound)

    def to_slots(self, states: torch.Tensor) -> torch.Tensor:
        """Token states [K*T, w] at the slots of all groups, one after the other."""
        if states.device.type == "cpu" or self.real_tokens is None:
            return states.index_select(0, self.spread)
        return Gather.apply(states, self.spread, self.pack, self._used(self.real_tokens, states.dtype))

    def to_tokens(self, states: torch.Tensor) -> torch.Tensor:
        """The inverse of `to_slots`."""
        if states.device.type == "cpu" or self.real_slots is None:
            return states.index_select(0, self.pack)
        return Gather.apply(states, self.pack, self.spread, self._used(self.real_slots, states.dtype))

    def _used(self, real: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """[n, 1] of a type, made once for all layers."""
        key = (len(real), dtype)
        if key not in self._columns:
            self._columns[key] = real.to(dtype)[:, None]
        return self._columns[key]

    @cached_property
    def _columns(self) -> dict[tuple[int, torch.dtype], torch.Tensor]:
        return {}

    def to(self, device: torch.device) -> "PackedRows":
        return PackedRows(tuple(group.to(device) for group in self.groups), self.pack.to(device), self.places)


_CURRENT: ContextVar[PackedRows | NextTokens | None] = ContextVar("packed rows", default=None)


@contextmanager
def rows_packed(packed: PackedRows | NextTokens | None) -> Iterator[None]:
    """Rows of the forward pass inside the block, for families whose layers do not hand `packed` on to attention."""
    before = _CURRENT.set(packed)
    try:
        yield
    finally:
        _CURRENT.reset(before)


def current_rows() -> PackedRows | NextTokens | None:
    """The rows of `rows_packed`."""
    return _CURRENT.get()


def equal_rows(rows: int, length: int, device: torch.device) -> PackedRows:
    """Rows of one length as a batch [rows, length] without any filler."""
    tokens = torch.arange(rows * length, device=device)
    return PackedRows((Group(rows, length, tokens),), tokens, tuple((row * length, length) for row in range(rows)))


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    packed: PackedRows | NextTokens | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each row, or of the next token of each row to those before it.

    Shapes: query, key [K, H or G, T, D], value [K, G, T, E] -> [K, T, H, E].

    `softcap` bounds the scores (Gemma 2, arXiv 2408.00118); `s_aux` [H] are attention sinks (gpt-oss): scores that
    take part in the softmax and have no value. Raises UserError E292 for any other argument that changes a number.
    """
    packed = packed or _CURRENT.get()
    if packed is None or attention_mask is not None:
        raise ValueError("packed attention needs `packed=PackedRows(...)` and no attention mask")
    refuse_unknown(module, others)
    if isinstance(packed, NextTokens):
        return _next_tokens(packed, query, key, value, scaling, sliding_window, softcap, s_aux), None
    if packed.cache is not None:
        packed.cache.write(key, value)
    is_plain = packed.ends is not None and softcap is None and s_aux is None
    if is_plain and varlen_attention.is_right(query, key, value, scaling, sliding_window):
        assert packed.ends is not None
        return varlen_attention.attend(query, key, value, packed.ends, scaling, sliding_window), None
    if not packed.groups:
        raise varlen_attention.NotAvailable("rows that are known by their ends alone need variable-length attention")
    runs, heads, tokens, _ = query.shape
    # The CPU kernel's backward pass is 4-5 times slower in bfloat16 than in float32.
    dtype = torch.float32 if query.device.type == "cpu" else query.dtype
    # Query, key and value travel together and through all groups at once: a short step is as long as the number of its
    # operations.
    together = _together(query, key, value).to(dtype)
    slots = packed.to_slots(together).split([group.rows * group.longest for group in packed.groups])
    widths = [states.shape[1] * states.shape[3] for states in (query, key, value)]
    shared_heads = key.shape[1] != heads
    answers = []
    for group, group_slots in zip(packed.groups, slots, strict=True):
        rows_q, rows_k, rows_v = (
            states.view(group.rows, group.longest, -1, like.shape[3]).transpose(1, 2)
            for states, like in zip(group_slots.split(widths, dim=1), (query, key, value), strict=True)
        )
        mask = group.mask_of(sliding_window)
        if softcap is None and s_aux is None:
            out = scaled_dot_product_attention(
                rows_q, rows_k, rows_v, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=shared_heads
            )
        else:
            out = _attention_by_hand(rows_q, rows_k, rows_v, mask, scaling, softcap, s_aux)
        answers.append(out.transpose(1, 2).reshape(group.rows * group.longest, -1))
    flat = torch.cat(answers) if len(answers) > 1 else answers[0]
    return packed.to_tokens(flat).to(query.dtype).view(runs, tokens, heads, value.shape[3]), None


def _together(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """All heads of every token side by side. Shapes: [K, heads, T, width] each -> [K*T, sum of heads * width]."""
    runs, _, tokens, width = query.shape
    parts = [states.transpose(1, 2) for states in (query, key, value)]
    # CPUs keep the strides of gradients, on which bits of old results may depend.
    if query.device.type != "cpu" and width == value.shape[3]:
        return torch.cat(parts, dim=2).view(runs * tokens, -1)
    return torch.cat([states.reshape(runs * tokens, -1) for states in parts], dim=1)


def _next_tokens(
    rows: NextTokens,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Attention of one token of each of B rows to those before it. Shapes: query, key [1, H or G, B, D], value
    [1, G, B, E] -> [1, B, H, E]."""
    keys, values = rows.cached(key, value)
    count, heads, width = len(rows.positions), query.shape[1], query.shape[3]
    queries, mask = query[0].transpose(0, 1), rows.mask(window)
    if softcap is not None or sinks is not None:
        out = _attention_by_hand(queries[:, :, None], keys, values, mask, scaling, softcap, sinks)
        return out[:, :, 0][None]
    # Heads that share keys are the kernel's queries of one head, so that nothing is repeated.
    shared = queries.reshape(count, keys.shape[1], -1, width)
    out = scaled_dot_product_attention(shared, keys, values, attn_mask=mask, scale=scaling)
    return out.reshape(1, count, heads, -1)


def _attention_by_hand(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Attention with capped scores or sinks, for which torch has no kernel. Shapes as in torch's."""
    shared = query.shape[1] // key.shape[1]
    if shared > 1:
        key, value = key.repeat_interleave(shared, dim=1), value.repeat_interleave(shared, dim=1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is None:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    scores = scores.float().masked_fill(~mask, -torch.inf)
    if sinks is not None:
        column = sinks.float().reshape(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, column], dim=-1)
    weights = torch.softmax(scores, dim=-1)[..., : key.shape[2]]
    return weights.to(value.dtype) @ value


def refuse_unknown(module: torch.nn.Module, others: Mapping[str, Any]) -> None:
    """Raise UserError E292 for arguments that a kernel may not leave out."""
    unknown = [name for name, setting in others.items() if name not in _WITHOUT_EFFECT and _has_effect(name, setting)]
    if not getattr(module, "is_causal", True):
        unknown.append("is_causal")
    if unknown:
        family = getattr(getattr(module, "config", None), "model_type", type(module).__name__)
        raise user_error(
            "E292",
            f"{family}: packed attention does not know the argument {', '.join(unknown)}",
            "model",
            "choose another model",
        )


def _has_effect(name: str, setting: object) -> bool:
    """True for an argument that changes what attention computes: anything but None, False, no dropout and causal."""
    if name == "is_causal":
        return setting is False
    return setting is not None and setting is not False and not (name == "dropout" and setting == 0)


def use_implementation(model: Any, name: str) -> None:
    """Set the attention implementation of a model; a vision tower, whose images are no rows, keeps torch's kernel."""
    if "vision_config" not in getattr(model.config, "sub_configs", {}):
        model.set_attn_implementation(name)
        return
    model.set_attn_implementation({"": name, "text_config": name, "vision_config": "sdpa"})


def register() -> None:
    """Make the kernel known to transformers as `attn_implementation="p2p_packed"`."""
    AttentionInterface.register(NAME, packed_attention)
