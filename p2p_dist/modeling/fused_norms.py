"""RMS norms as one kernel each, for GPUs: transformers computes them in eight operations, of which autograd keeps
several results in fp32.

A norm is replaced where torch's kernel gives what the module gives for its own weights, to the rounding of the type.
"""

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.functional import rms_norm

_PROBES = 4


class FusedRMSNorm(nn.Module):
    """y = x / sqrt(mean(x^2) + eps) * weight over the last dimension, in fp32 inside (arXiv 1910.07467)."""

    def __init__(self, weight: nn.Parameter, eps: float):
        super().__init__()
        self.weight, self.eps = weight, eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, self.weight.shape, self.weight, self.eps)


def fuse_norms(model: nn.Module) -> int:
    """Replace the RMS norms of a model that torch's kernel computes, and return their number."""
    fused = {name: norm for name, module in model.named_modules() if (norm := fused_norm(module)) is not None}
    replace_modules(model, fused)
    return len(fused)


def replace_modules(model: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    """Put modules in the places of those with the same names."""
    for name, module in modules.items():
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, module)


def fused_norm(module: nn.Module) -> FusedRMSNorm | None:
    """The kernel for a norm of transformers; None for a module that is none, or computes something else."""
    candidate = unproven(module)
    if candidate is None:
        return None
    weight = candidate.weight
    draw = torch.Generator().manual_seed(0)
    x = (3 * torch.randn(_PROBES, len(weight), generator=draw)).to(weight.device, weight.dtype)
    with torch.no_grad():
        expected, ours = module(x).float(), candidate(x).float()
    rounding = 4 * torch.finfo(weight.dtype).eps
    return candidate if bool(((ours - expected).abs() <= rounding * expected.abs() + rounding).all()) else None


def unproven(module: nn.Module) -> FusedRMSNorm | None:
    """The kernel for a module that looks like an RMS norm."""
    if not type(module).__name__.endswith("RMSNorm") or isinstance(module, FusedRMSNorm):
        return None
    parameters = dict(module.named_parameters())
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if set(parameters) != {"weight"} or parameters["weight"].dim() != 1 or not isinstance(eps, float):
        return None
    return FusedRMSNorm(parameters["weight"], eps)
