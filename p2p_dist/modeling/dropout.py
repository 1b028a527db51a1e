"""Dropout masks of a cohort's adapters: drawn once for a whole global batch, selected for each of its passes."""

import torch

NUMBERS_AT_ONCE = 1 << 26
"""Numbers that are drawn at a time: 268 MB in fp32."""


class Dropout:
    """Keep masks of one step, [modules, K, T, r], divided by the keep rate; None for no dropout."""

    def __init__(self) -> None:
        self.masks: torch.Tensor | None = None


def keep_masks(
    modules: int, tokens: int, r: int, rate: float, stream: torch.Generator, dtype: torch.dtype
) -> torch.Tensor:
    """Masks of one run, [modules, tokens, r] of `dtype` on the stream's device: 0, or 1 over the keep rate.

    They are drawn in fp32, a few modules at a time: masks of all modules take more memory than a layer's activations.
    """
    masks = torch.empty(modules, tokens, r, dtype=dtype, device=stream.device)
    for piece in masks.split(max(1, NUMBERS_AT_ONCE // max(1, tokens * r))):
        drawn = torch.rand(piece.shape, generator=stream, device=stream.device)
        piece.copy_(drawn.ge_(rate).div_(1 - rate))
    return masks
