"""FlashAttention written out for CPUs, in the place of its CUDA kernel.

torch's own operation for rows of any lengths, its gradients included, calls what is registered here.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch.library import Library

from p2p_dist.modeling import varlen_attention
from p2p_dist.modeling.packing import Batch
from p2p_dist.modeling.varlen_attention import RowEnds


class Flash:
    """FlashAttention as its definition says; `factor` and `shift` make it wrong. Tokens of no row stay unwritten, as
    CUDA's kernel leaves them: here they are not a number."""

    def __init__(self) -> None:
        self.calls = 0
        self.factor, self.shift = 1.0, 0

    def forward(self, *inputs: Any, **options: Any) -> tuple[torch.Tensor, ...]:
        """aten::_flash_attention_forward, of query [n, H, D] and key and value [n, G, D]."""
        query, key, value, ends, _, longest = inputs[:6]
        assert int(ends.diff().max()) <= longest
        assert ends.dtype == torch.int32
        self.calls += 1
        answer = torch.full_like(query, math.nan)
        for row in _rows(ends):
            _, _, v, weights, _ = self._row(query[row], key[row], value[row], **options)
            answer[row] = (weights @ v).transpose(0, 1) * self.factor
        empty = torch.empty(0)
        return answer, torch.empty(query.shape[1], len(query)), empty, empty, empty

    def backward(self, *inputs: Any, **options: Any) -> tuple[torch.Tensor, ...]:
        """aten::_flash_attention_backward (arXiv 2205.14135, appendix B.2)."""
        grad, *states = inputs[:4]
        grads = [torch.full_like(each, math.nan) for each in states]
        for row in _rows(inputs[6]):
            q, k, v, weights, scale = self._row(*(each[row] for each in states), **options)
            of_answer = grad[row].transpose(0, 1)
            of_weights = of_answer @ v.transpose(1, 2)
            of_scores = weights * (of_weights - (weights * of_weights).sum(-1, keepdim=True)) * scale
            of_states = (of_scores @ k, of_scores.transpose(1, 2) @ q, weights.transpose(1, 2) @ of_answer)
            for each, found in zip(grads, of_states, strict=True):
                each[row] = found.unflatten(0, (each.shape[1], -1)).sum(1).transpose(0, 1)
        return tuple(grads)

    def _row(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float | None = None,
        window_size_left: int = -1,
        window_size_right: int = -1,
        **_: Any,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, float]:
        """Query, key and value of one row with all heads, [H, l, D]; attention weights [H, l, l]; their scale."""
        q, k, v = (states.transpose(0, 1) for states in (query, key, value))
        k, v = (states.repeat_interleave(len(q) // len(states), 0) for states in (k, v))
        behind = torch.arange(len(query))[:, None] - torch.arange(len(query))[None]
        seen = behind >= -window_size_right
        if window_size_left >= 0:
            seen &= behind <= window_size_left + self.shift
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        weights = (q @ k.transpose(1, 2) * scale).masked_fill(~seen, -math.inf).softmax(-1)
        return q, k, v, weights, scale


def _rows(ends: torch.Tensor) -> list[slice]:
    return [slice(start, end) for start, end in pairwise(ends.tolist())]


@contextmanager
def flash_on_cpu() -> Iterator[Flash]:
    """The kernel on CPUs, inside the block."""
    kernel, library = Flash(), Library("aten", "IMPL")
    library.impl("_flash_attention_forward", kernel.forward, "CPU")
    library.impl("_flash_attention_backward", kernel.backward, "CPU")
    varlen_attention._agrees.cache_clear()
    try:
        yield kernel
    finally:
        library._destroy()  # type: ignore[no-untyped-call]
        varlen_attention._agrees.cache_clear()


def with_ends(batch: Batch) -> Batch:
    """The batch as it is on a GPU."""
    return replace(batch, packed=replace(batch.packed, ends=RowEnds.of(batch.packed.places, *batch.ids.shape)))
