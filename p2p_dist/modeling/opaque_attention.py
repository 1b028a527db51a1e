"""Packed attention as one operation of torch.compile's graphs, which do not look into it.

The groups of a batch's rows change with every batch. A graph that contained them would be compiled for every batch; it
has a number in their place, under which the rows are found when it runs. The backward pass computes attention once
more, because an operation hands nothing but tensors to its backward pass.
"""

from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.library import Library, register_fake

from p2p_dist.modeling.attention import PackedRows, packed_attention, refuse_unknown

_INPUTS = (
    "Tensor query, Tensor key, Tensor value, Tensor rows, float? scaling, int? window, float? softcap, Tensor? sinks"
)
_LIBRARY = Library("p2p_dist", "DEF")
_LIBRARY.define(f"packed_attention({_INPUTS}) -> Tensor")
_LIBRARY.define(f"packed_attention_backward(Tensor grad, {_INPUTS}) -> (Tensor, Tensor, Tensor)")
_ROWS: WeakValueDictionary[int, PackedRows] = WeakValueDictionary()
"""Rows of the batches that are under way, by number."""
_NUMBERS = count()
_CAUSAL = nn.Identity()


def handle_of(rows: PackedRows) -> torch.Tensor:
    """The number of a batch's rows, for which a graph may ask while somebody holds the rows."""
    handle: torch.Tensor | None = vars(rows).get("handle")
    if handle is None:
        number = next(_NUMBERS)
        _ROWS[number] = rows
        handle = torch.tensor(number)
        vars(rows)["handle"] = handle  # past the frozen fields, as a cached property
    return handle


def opaque_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    packed: Any = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """As `packed_attention`, of rows that a handle names; rows themselves are handed on to it."""
    if not isinstance(packed, torch.Tensor):
        return packed_attention(
            module, query, key, value, attention_mask, scaling, packed, sliding_window, softcap, s_aux, **others
        )
    refuse_unknown(module, others)
    return OpaqueAttention.apply(query, key, value, packed, scaling, sliding_window, softcap, s_aux), None


class OpaqueAttention(torch.autograd.Function):
    """`packed_attention` of rows that a handle names. Sinks are frozen and get no gradient."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *others: Any) -> torch.Tensor:
        rows, scaling, window, softcap, sinks = others
        ctx.save_for_backward(query, key, value, rows, sinks)
        ctx.settings = scaling, window, softcap
        return torch.ops.p2p_dist.packed_attention(query, key, value, *others)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        *states, sinks = ctx.saved_tensors
        grads = torch.ops.p2p_dist.packed_attention_backward(grad, *states, *ctx.settings, sinks)
        return (*grads, None, None, None, None, None)


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows: torch.Tensor, *settings: Any) -> Any:
    scaling, window, softcap, sinks = settings
    packed = _ROWS[int(rows)]
    return packed_attention(_CAUSAL, query, key, value, None, scaling, packed, window, softcap, sinks)[0]


def _attend_backward(
    grad: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any
) -> Any:
    with torch.enable_grad():
        leaves = [states.detach().requires_grad_() for states in (query, key, value)]
        answer = _attend(*leaves, *rest)
    return tuple(part.contiguous() for part in torch.autograd.grad(answer, leaves, grad))


def _answer_like(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any) -> torch.Tensor:
    runs, heads, tokens, _ = query.shape
    return query.new_empty(runs, tokens, heads, value.shape[3])


def _grads_like(grad: torch.Tensor, *states: Any) -> tuple[torch.Tensor, ...]:
    return tuple(like.new_empty(like.shape) for like in states[:3])


_LIBRARY.impl("packed_attention", _attend, "CompositeExplicitAutograd")
_LIBRARY.impl("packed_attention_backward", _attend_backward, "CompositeExplicitAutograd")
register_fake("p2p_dist::packed_attention", _answer_like)
register_fake("p2p_dist::packed_attention_backward", _grads_like)
