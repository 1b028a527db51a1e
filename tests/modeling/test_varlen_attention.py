"""Variable-length attention of packed rows, with FlashAttention written out for CPUs in the place of its CUDA
kernel."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from p2p_dist.modeling import varlen_attention
from p2p_dist.modeling.attention import PackedRows, packed_attention
from p2p_dist.modeling.packing import Batch, pack
from p2p_dist.modeling.tokenization import Encoded
from p2p_dist.modeling.varlen_attention import RowEnds
from tests.flash_on_cpu import Flash, flash_on_cpu, with_ends

pytestmark = pytest.mark.torch

HEADS, SHARED, WIDTH = 4, 2, 8
MODULE = torch.nn.Identity()


@pytest.fixture
def flash() -> Iterator[Flash]:
    with flash_on_cpu() as kernel:
        yield kernel


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


LENGTHS = {
    "filler": [[3, 20, 17, 1], [5, 140]],
    "filler longer than all rows": [[100] * 5, [60]],
    "a run without rows": [[200], []],
    "no filler": [[4, 12], [16]],
    "one row": [[7]],
}


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
    ends = RowEnds.of(batch.packed.places, 2, width).ends.tolist()
    assert ends == [0, 3, 23, 40, 41, width, width + 5, width + 145, 2 * width]
    assert RowEnds.of(((0, 4), (4, 12), (16, 16)), 2, 16).ends.tolist() == [0, 4, 16, 16, 32, 32]


def test_longest_row_may_be_filler() -> None:
    """The kernel writes nothing behind the tokens that it is told."""
    assert RowEnds.of(((0, 100), (100, 100), (512, 60)), 2, 512).longest == 512
    assert RowEnds.of(((0, 200), (200, 56)), 1, 256).longest == 256


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
