"""The product of a linear layer with K adapters as one step of autograd, for GPUs: fewer operations to launch, and no
copy of the layer's output.

The formulas are those of `LoraLinear.forward`; sums are made in another order, so the last bits differ. CPUs keep the
plain form, whose bits are part of old results.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear


class LoraProduct(torch.autograd.Function):
    """y = x W^T + b + scale * (mask * (x A^T)) B^T, with the products of the adapters added in place.

    Shapes: x [K, T, in], weight [out, in], bias [out] or None, a [K, r, in], b [K, out, r], mask [K, T, r] or None.
    The frozen weight and bias get no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        mask: torch.Tensor | None,
        scale: float,
    ) -> torch.Tensor:
        hidden = torch.bmm(x, a.transpose(1, 2))
        if mask is not None:
            hidden.mul_(mask)
        ctx.save_for_backward(x, weight, a, b, mask, hidden)
        ctx.scale = scale
        return linear(x, weight, bias).baddbmm_(hidden, b.transpose(1, 2), alpha=scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, a, b, mask, hidden = ctx.saved_tensors
        grad_b = torch.empty_like(b, memory_format=torch.contiguous_format)
        grad_b.baddbmm_(grad.transpose(1, 2), hidden, beta=0, alpha=ctx.scale)
        grad_hidden = torch.empty_like(hidden).baddbmm_(grad, b, beta=0, alpha=ctx.scale)
        if mask is not None:
            grad_hidden.mul_(mask)
        grad_a = torch.bmm(grad_hidden.transpose(1, 2), x)
        grad_x = (grad @ weight).baddbmm_(grad_hidden, a) if ctx.needs_input_grad[0] else None
        return grad_x, None, None, grad_a, grad_b, None, None
