"""Rotary position embeddings of query and key together, for GPUs (arXiv 2104.09864).

transformers rotates each on its own, in ten operations and more than twice as many in the backward pass. A family's
function is replaced where it gives the same numbers; tensors on CPUs still go through it, to the bit.
"""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch.autograd.function import once_differentiable

_NAME = "apply_rotary_pos_emb"
Rope = Callable[..., tuple[torch.Tensor, torch.Tensor]]


class Rotation(torch.autograd.Function):
    """y = x * cos + rotate(x) * sin, where rotate([a, b]) = [-b, a] of the halves of the last dimension.

    Shapes: x [K, T, heads, D], cos and the signed sines [K, T, 1, D]. The backward pass turns the other way.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, signed: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, signed)
        return (x * cos).addcmul_(x.roll(x.shape[-1] // 2, -1), signed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        cos, signed = ctx.saved_tensors
        return (grad * cos).add_((grad * signed).roll(grad.shape[-1] // 2, -1)), None, None


def _signed(sin: torch.Tensor) -> torch.Tensor:
    """The sines with the sign that `rotate` gives their half, computed by the first layer and kept with the sines."""
    signed: torch.Tensor | None = getattr(sin, "signed", None)
    if signed is None:
        signed = sin.clone()
        signed[..., : sin.shape[-1] // 2].neg_()
        sin.signed = signed  # type: ignore[attr-defined]
    return signed


def fused(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Query [K, H, T, D] and key [K, G, T, D] rotated by cos and sin [K, T, D]. The heads of a token lie side by side,
    where variable-length attention reads them without a copy."""
    together = torch.cat([q.transpose(1, 2), k.transpose(1, 2)], dim=2)
    both = Rotation.apply(together, cos.unsqueeze(2), _signed(sin).unsqueeze(2))
    rotated_q, rotated_k = both.split([q.shape[1], k.shape[1]], dim=2)
    return rotated_q.transpose(1, 2), rotated_k.transpose(1, 2)


def fuse_rope(model: Any, proven: bool = False) -> bool:
    """Rotate query and key of a model's family together from now on. False where its function is another one, or none.

    `proven` leaves out the comparison, for tensors without numbers.
    """
    module = sys.modules[type(model).__module__]
    plain = getattr(module, _NAME, None)
    if plain is None or hasattr(plain, "plain"):
        return plain is not None
    if not (proven or _is_same(plain)):
        return False

    @wraps(plain)
    def rope(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *rest: Any) -> Any:
        fits = q.device.type == "cuda" and not rest and cos.dim() == 3 and cos.shape[-1] == q.shape[-1]
        fused_here = fits and not torch.compiler.is_compiling()  # a compiler fuses the plain form by itself
        return fused(q, k, cos, sin) if fused_here else plain(q, k, cos, sin, *rest)

    rope.plain = plain  # type: ignore[attr-defined]
    setattr(module, _NAME, rope)
    return True


def _is_same(plain: Rope) -> bool:
    """True for a function that rotates as `fused` does, told from random numbers on the host."""
    draw = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, heads, 5, 8, generator=draw) for heads in (4, 2))
    cos, sin = (torch.randn(2, 5, 8, generator=draw) for _ in range(2))
    try:
        expected = plain(q, k, cos, sin)
    except (TypeError, ValueError, RuntimeError, IndexError):
        return False
    return all(
        ours.shape == reference.shape and torch.allclose(ours, reference, atol=1e-5)
        for ours, reference in zip(fused(q, k, cos, sin), expected, strict=True)
    )
