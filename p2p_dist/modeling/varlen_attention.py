"""Variable-length attention for packed rows on GPUs: one kernel reads rows of any lengths where they lie
(FlashAttention-2, arXiv 2307.08691, by torch.nn.attention.varlen).

It is taken where it gives the numbers of plain attention on this device, to the rounding of the type. Elsewhere rows
are spread to groups of like lengths (`modeling.attention`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, pairwise

import torch
from torch.nn.functional import scaled_dot_product_attention

GRAIN = 128
"""The kernel is told a multiple of this as the longest row: it starts blocks of so many tokens anyway."""
_PROBED = (1, 37, 0, 130, 64, 3)
"""Tokens of the rows on which the kernel is tried; one is empty, as the filler of a full run is."""
_PROBED_WINDOW = 24
_ROUNDINGS, _LEAST = 4, 1e-5
"""Largest distance from plain attention, as a share of its size: so many roundings of the type, or this."""


class NotAvailable(RuntimeError):
    """Rows that only variable-length attention can read met a model or a device without it."""


@dataclass(frozen=True)
class RowEnds:
    """Ends of packed rows; the filler behind each run's last row is a row of its own, which may be the longest.

    Shape: `ends` [rows + K + 1] (int32), from 0 to K * T. No row is longer than `longest`, a multiple of `GRAIN`: the
    kernel writes nothing behind so many tokens of a row.
    """

    ends: torch.Tensor
    longest: int

    @classmethod
    def of(cls, places: Sequence[tuple[int, int]], runs: int, width: int) -> "RowEnds":
        """Ends in `runs` runs of `width` tokens. `places` are the rows as (start, length), in order."""
        lengths: list[int] = []
        for run in range(runs):
            of_run = [length for start, length in places if start // width == run]
            lengths += [*of_run, width - sum(of_run)]
        return cls(torch.tensor([0, *accumulate(lengths)], dtype=torch.int32), -(-max(lengths) // GRAIN) * GRAIN)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    rows: RowEnds,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """Causal attention within rows; tokens look at the last `window` of their row, themselves included, or at all.

    Shapes: query [K, H, T, D], key and value [K, G, T, D] -> [K, T, H, D].
    """
    from torch.nn.attention.varlen import varlen_attn

    runs, heads, tokens, width = query.shape
    q, k, v = (states.transpose(1, 2).reshape(runs * tokens, -1, width) for states in (query, key, value))
    if q.stride(1) != width:  # the answer lies as the query does, and the layer behind would copy it
        q = q.contiguous()
    ends, longest = rows.ends, rows.longest
    seen = -1 if window is None or window >= longest else window - 1
    shared = heads != key.shape[1]
    answer = varlen_attn(q, k, v, ends, ends, longest, longest, scale=scaling, window_size=(seen, 0), enable_gqa=shared)
    assert isinstance(answer, torch.Tensor)
    return answer.view(runs, tokens, heads, width)


def is_right(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None, window: int | None
) -> bool:
    """True where the kernel gives the values and gradients of plain attention for heads like these on this device. It
    is tried once for each kind of heads. Shapes as in `attend`."""
    if query.shape[3] != value.shape[3] or query.shape[1] % key.shape[1]:
        return False
    heads = (query.shape[1], key.shape[1])
    return _agrees(query.device, query.dtype, heads, query.shape[3], scaling, window is not None)


@cache
def _agrees(
    device: torch.device, dtype: torch.dtype, heads: tuple[int, int], width: int, scaling: float | None, windowed: bool
) -> bool:
    draw, tokens = torch.Generator().manual_seed(0), sum(_PROBED)
    shapes = [(1, count, tokens, width) for count in (heads[0], heads[1], heads[1])]
    states = [torch.randn(shape, generator=draw).to(device, dtype).requires_grad_() for shape in shapes]
    weights = torch.randn(1, tokens, heads[0], width, generator=draw).to(device)
    ends = torch.tensor([0, *accumulate(_PROBED)], dtype=torch.int32, device=device)
    rows = RowEnds(ends, -(-max(_PROBED) // GRAIN) * GRAIN)
    window = _PROBED_WINDOW if windowed else None
    # The pass around this trial may be a checkpointed one, whose hooks count what is kept.
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda kept: kept, lambda kept: kept)
    try:
        with torch.enable_grad(), hooks:
            answer = attend(states[0], states[1], states[2], rows, scaling, window)
            found = [answer, *torch.autograd.grad((answer * weights).sum(), states)]
    except (ImportError, TypeError, ValueError, RuntimeError):  # no such kernel here, or in this torch
        return False
    exact = [each.detach().float().requires_grad_() for each in states]
    with torch.enable_grad(), hooks:
        answer = _by_row(exact[0], exact[1], exact[2], scaling, window)
        expected = [answer, *torch.autograd.grad((answer * weights).sum(), exact)]
    limit = max(_LEAST, _ROUNDINGS * torch.finfo(dtype).eps)
    with torch.no_grad():
        return all(bool((a.float() - b).norm() <= limit * b.norm()) for a, b in zip(found, expected, strict=True))


def _by_row(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None, window: int | None
) -> torch.Tensor:
    """Plain attention of the probed rows, one after the other. Shapes as in `attend`."""
    answers = []
    for start, end in pairwise([0, *accumulate(_PROBED)]):
        places = torch.arange(end - start, device=query.device)
        behind = places[:, None] - places[None]
        seen = (behind >= 0) & (behind < (window or len(places)))
        q, k, v = (states[:, :, start:end] for states in (query, key, value))
        answers.append(scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scaling, enable_gqa=True))
    return torch.cat(answers, dim=2).transpose(1, 2)
