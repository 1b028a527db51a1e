"""Rows of a tensor by index, with a gather as the backward pass too, for GPUs.

torch's own backward pass of `index_select` adds up what has one index. In deterministic mode a GPU sorts the indices
for it; with the inverse index there is nothing to add.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable


class Gather(torch.autograd.Function):
    """y[i] = x[index[i]], where at most one y[i] that has a gradient comes from each row of x.

    Shapes: x [n, w], index [m]; `inverse` [n] says in which row of y a row of x is, and `used` [n, 1] is 1 where that
    row is read and 0 elsewhere.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, index: torch.Tensor, inverse: torch.Tensor, used: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(inverse, used)
        return x.index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inverse, used = ctx.saved_tensors
        return grad.index_select(0, inverse).mul_(used), None, None, None
