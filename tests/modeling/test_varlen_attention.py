"""Variable-length attention of packed rows, with FlashAttention written out for CPUs in the place of its CUDA kernel.

torch's own operation, its gradients included, calls what is registered here; nothing of the package is replaced.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.library import Library

from p2p_dist.modeling import varlen_attention
from p2p_dist.modeling.attention import PackedRows, packed_attention
from p2p_dist.modeling.packing import Batch, pack
from p2p_dist.modeling.tokenization import Encoded
from p2p_dist.modeling.varlen_attention import row_ends

pytestmark = pytest.mark.torch

HEADS, SHARED, WIDTH = 4, 2, 8
MODULE = torch.nn.Identity()


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


@pytest.fixture
def flash() -> Iterator[Flash]:
    """The kernel on CPUs, inside the test."""
    kernel, library = Flash(), Library("aten", "IMPL")
    library.impl("_flash_attention_forward", kernel.forward, "CPU")
    library.impl("_flash_attention_backward", kernel.backward, "CPU")
    varlen_attention._agrees.cache_clear()
    yield kernel
    library._destroy()  # type: ignore[no-untyped-call]
    varlen_attention._agrees.cache_clear()


def with_ends(batch: Batch) -> Batch:
    """The batch as it is on a GPU."""
    ends = torch.tensor(row_ends(batch.packed.places, *batch.ids.shape), dtype=torch.int32)
    return replace(batch, packed=replace(batch.packed, ends=ends))


def batch_of(lengths: Sequence[Sequence[int]]) -> Batch:
    """Rows of these lengths for each run."""
    return pack([[Encoded("", [1] * length, [1]) for length in run] for run in lengths])


def states_of(batch: Batch) -> list[torch.Tensor]:
    """Random query, key and value."""
    draw = torch.Generator().manual_seed(1)
    shapes = [(len(batch.ids), heads, batch.ids.shape[1], WIDTH) for heads in (HEADS, SHARED, SHARED)]
    return [torch.randn(shape, generator=draw).requires_grad_() for shape in shapes]


def attended(packed: PackedRows, states: Sequence[torch.Tensor], real: torch.Tensor, **options: Any) -> Any:
    """Answers of the real tokens, and the gradients of all states."""
    answer, _ = packed_attention(MODULE, states[0], states[1], states[2], None, packed=packed, **options)
    answer = answer.reshape(-1, HEADS, WIDTH)[real]
    weights = torch.randn(answer.shape, generator=torch.Generator().manual_seed(2))
    return answer, *torch.autograd.grad((answer * weights).sum(), states)


LENGTHS = {"filler": [[3, 20, 17, 1], [5, 140]], "no filler": [[4, 12], [16]], "one row": [[7]]}


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("options", [{}, {"sliding_window": 6}, {"sliding_window": 500}, {"scaling": 0.3}], ids=str)
def test_rows_of_any_lengths_attend_as_in_groups(flash: Flash, lengths: list[list[int]], options: Any) -> None:
    """Values and gradients, of several runs with filler behind their rows."""
    batch = batch_of(lengths)
    real = torch.cat([torch.arange(start, start + length) for start, length in batch.packed.places])
    states = states_of(batch)
    expected = attended(batch.packed, states, real, **options)
    assert flash.calls == 0
    found = attended(with_ends(batch).packed, states, real, **options)
    assert flash.calls == 2  # the trial, and the batch
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_ends_are_those_of_rows_and_of_the_filler_of_each_run() -> None:
    batch = batch_of(LENGTHS["filler"])
    width = batch.ids.shape[1]
    assert row_ends(batch.packed.places, 2, width) == [0, 3, 23, 40, 41, width, width + 5, width + 145, 2 * width]
    assert row_ends(((0, 4), (4, 12), (16, 16)), 2, 16) == [0, 4, 16, 16, 32, 32]


@pytest.mark.parametrize("wrong", [{"factor": 1.01}, {"shift": 1}], ids=str)
def test_a_kernel_with_other_numbers_is_not_taken(flash: Flash, wrong: dict[str, Any]) -> None:
    """It is tried once, and plain attention computes: here answers are a hundredth too large, or windows a token too
    wide."""
    vars(flash).update(wrong)
    batch = batch_of(LENGTHS["filler"])
    real, states = torch.arange(41), states_of(batch)
    options = {"sliding_window": 6}
    for _ in range(2):
        found = attended(with_ends(batch).packed, states, real, **options)
    assert flash.calls == 1
    assert all(map(torch.equal, found, attended(batch.packed, states, real, **options)))


def test_without_the_kernel_rows_attend_in_groups() -> None:
    """torch has it for GPUs alone."""
    varlen_attention._agrees.cache_clear()
    batch = batch_of(LENGTHS["filler"])
    real, states = torch.arange(41), states_of(batch)
    found = attended(with_ends(batch).packed, states, real)
    assert all(map(torch.equal, found, attended(batch.packed, states, real)))


@pytest.mark.parametrize("options", [{"softcap": 20.0}, {"s_aux": torch.zeros(HEADS)}], ids=["cap", "sinks"])
def test_what_the_kernel_does_not_know_is_computed_without_it(flash: Flash, options: Any) -> None:
    batch = batch_of(LENGTHS["filler"])
    attended(with_ends(batch).packed, states_of(batch), torch.arange(41), **options)
    assert flash.calls == 0
