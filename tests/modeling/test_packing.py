"""Packing: every token in its place, and little filler."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from p2p_dist.modeling.packing import pack, packed_width
from p2p_dist.modeling.tokenization import Encoded


@given(st.integers(1, 20_000))
def test_little_filler_and_few_widths(tokens: int) -> None:
    width = packed_width(tokens)
    assert tokens <= width < tokens + max(8, tokens // 8, 0)
    assert width <= -(-tokens // 64) * 64
    assert width % 8 == 0
    assert tokens < 1024 or width % 64 == 0


def test_rows_lie_end_to_end_and_attention_finds_them() -> None:
    lengths = [[3, 20, 17], [5, 1]]
    number = iter(range(1, 100))
    runs = [[Encoded("", [next(number) for _ in range(n)], [9]) for n in run] for run in lengths]
    batch = pack(runs)
    assert batch.ids.shape == (2, 40)
    assert batch.ids[0].tolist() == list(range(1, 41))
    assert batch.ids[1].tolist() == [*range(41, 47), *[0] * 34]
    assert batch.positions[0].tolist() == [*range(3), *range(20), *range(17)]
    assert batch.answers.tolist() == [2, 22, 39, 44, 45]
    assert batch.owner.tolist() == [0, 0, 0, 1, 1]
    assert batch.tokens == [40, 6]
    spread = torch.cat([batch.ids.reshape(-1)[group.spread] for group in batch.packed.groups])
    real = torch.cat([torch.arange(40), torch.arange(40, 46)])
    assert torch.equal(spread[batch.packed.pack[real]], batch.ids.reshape(-1)[real])
    assert sorted((group.rows, group.longest) for group in batch.packed.groups) == [(2, 20), (3, 5)]
