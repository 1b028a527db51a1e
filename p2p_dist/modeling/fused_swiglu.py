"""Gated feed-forward layers with SiLU (SwiGLU, arXiv 2002.05202), for GPUs: autograd keeps gate and up, and silu(gate)
is computed again in the backward pass.

A layer is replaced where it gives the same bits for random numbers. The operations are those of the plain form in
another order, so that the gradients have its bits too.
"""

import copy
import inspect
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import silu

from p2p_dist.modeling.fused_norms import replace_modules

_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
_PROBES = 64
_SCALES = (1.0, 10.0, 100.0)
"""Sizes of the random numbers: some families clamp large ones."""


class SwiGLU(torch.autograd.Function):
    """y = silu(gate) * up. Only tensors of its own are written to, so that a kept graph can be passed again."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up = ctx.saved_tensors
        grad_silu, grad_up = torch._foreach_mul((up, silu(gate)), (grad, grad))
        return silu_backward_(grad_silu, gate), grad_up


def silu_backward_(grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Gradient of x from that of silu(x), written over the latter."""
    written: torch.Tensor = torch.ops.aten.silu_backward.grad_input(grad, x, grad_input=grad)
    return written


class FusedSwiGLU(nn.Module):
    """y = down(silu(gate(x)) * up(x)) with the linear layers of another module, in its order and under its names."""

    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module

    def __init__(self, mlp: nn.Module):
        super().__init__()
        for name, layer in mlp.named_children():
            if name in _PROJECTIONS:
                self.add_module(name, layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_proj(x), self.up_proj(x)
        if torch.compiler.is_compiling():  # a compiler chooses by itself what it computes again
            return self.down_proj(silu(gate) * up)
        return self.down_proj(SwiGLU.apply(gate, up))


def fuse_swiglu(model: nn.Module, proven: bool = False) -> int:
    """Replace the gated feed-forward layers of a model that are SwiGLU, and return their number.

    `proven` leaves out the comparison, for tensors without numbers.
    """
    looks = {name: module for name, module in model.named_modules() if looks_like_swiglu(module)}
    fused = {name: FusedSwiGLU(module) for name, module in looks.items() if proven or is_swiglu(module)}
    replace_modules(model, fused)
    return len(fused)


def looks_like_swiglu(module: nn.Module) -> bool:
    """True for a module of three linear layers without biases and at most an activation, called with one tensor."""
    children = dict(module.named_children())
    layers = [children.pop(name, None) for name in _PROJECTIONS]
    return (
        not isinstance(module, FusedSwiGLU)
        and all(isinstance(layer, nn.Linear) and layer.bias is None for layer in layers)
        and not set(children) - {"act_fn"}
        and not any(True for _ in module.parameters(recurse=False))
        and len(inspect.signature(module.forward).parameters) == 1
    )


def is_swiglu(module: nn.Module) -> bool:
    """True for a module that gives the bits of `SwiGLU` for random numbers small and large, in float32 and bfloat16.

    Other layers stand in for the linear ones: the gate gives x, up gives x backwards, down gives what it is given.
    """
    probe = copy.copy(module)
    probe._modules = module._modules | dict(
        zip(_PROJECTIONS, (nn.Identity(), _Backwards(), nn.Identity()), strict=True)
    )
    device = next(module.parameters()).device
    draw = torch.Generator().manual_seed(0)
    numbers = torch.cat([scale * torch.randn(_PROBES, generator=draw) for scale in _SCALES]).expand(1, 1, -1)
    try:
        with torch.no_grad():
            return all(
                torch.equal(probe(x), SwiGLU.apply(x, x.flip(-1)))
                for x in (numbers.to(device, dtype) for dtype in (torch.float32, torch.bfloat16))
            )
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
        return False


class _Backwards(nn.Module):
    """The last dimension from its end to its begin."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flip(-1)
