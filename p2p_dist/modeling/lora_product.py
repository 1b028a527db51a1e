"""Products of linear layers with K adapters as one step of autograd, for GPUs: fewer operations to launch, and no copy
of a layer's output. Layers that read the same input (query, key and value; gate and up) share one product with the A
of their adapters.

The formulas are those of `LoraLinear.forward`; sums are made in another order, so the last bits differ. CPUs keep the
plain form, whose bits are part of old results.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

SAME_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names of layers of one module that usually read the same input."""


class LoraProducts(torch.autograd.Function):
    """y_i = x W_i^T + c_i + scale * (mask_i * (x A_i^T)) B_i^T for n layers, with all sums in place.

    Shapes: x [K, T, in]; mask [n, K, T, r] or None; then n each of weights [out_i, in], biases [out_i] or None, A [K,
    r, in] and B [K, out_i, r]. The frozen weights and biases get no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, mask: torch.Tensor | None, scale: float, layers: int, *tensors: Any
    ) -> tuple[torch.Tensor, ...]:
        weights, biases, each_a, each_b = (tensors[part * layers : (part + 1) * layers] for part in range(4))
        a = each_a[0] if layers == 1 else torch.cat(each_a, dim=1)
        hidden = torch.bmm(x, a.transpose(1, 2))
        _drop(hidden, mask)
        ctx.save_for_backward(x, mask, a, hidden, *weights, *each_b)
        ctx.scale, ctx.layers = scale, layers
        parts = hidden.chunk(layers, dim=2)
        return tuple(
            linear(x, weight, bias).baddbmm_(part, b.transpose(1, 2), alpha=scale)
            for weight, bias, part, b in zip(weights, biases, parts, each_b, strict=True)
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, mask, a, hidden, *rest = ctx.saved_tensors
        layers, scale = ctx.layers, ctx.scale
        weights, each_b = rest[:layers], rest[layers:]
        grad_hidden, each_grad_b = torch.empty_like(hidden), []
        parts = zip(grads, each_b, hidden.chunk(layers, 2), grad_hidden.chunk(layers, 2), strict=True)
        for grad, b, part, grad_part in parts:
            grad_b = torch.empty_like(b, memory_format=torch.contiguous_format)
            each_grad_b.append(grad_b.baddbmm_(grad.transpose(1, 2), part, beta=0, alpha=scale))
            grad_part.baddbmm_(grad, b, beta=0, alpha=scale)
        _drop(grad_hidden, mask)
        each_grad_a = torch.bmm(grad_hidden.transpose(1, 2), x).chunk(layers, dim=1)
        grad_x = _grad_of_input(grads, weights).baddbmm_(grad_hidden, a) if ctx.needs_input_grad[0] else None
        return grad_x, None, None, None, *(None for _ in range(2 * layers)), *each_grad_a, *each_grad_b


def _drop(hidden: torch.Tensor, mask: torch.Tensor | None) -> None:
    """Multiply x A^T of n layers, [K, T, n * r], by their masks [n, K, T, r] in place."""
    if mask is not None:
        hidden.unflatten(2, (len(mask), -1)).mul_(mask.permute(1, 2, 0, 3))


def _grad_of_input(grads: Sequence[torch.Tensor], weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """Gradient of x through the frozen weights, [K, T, in]."""
    total = grads[0] @ weights[0]
    for grad, weight in zip(grads[1:], weights[1:], strict=True):
        total.view(-1, weight.shape[1]).addmm_(grad.reshape(-1, weight.shape[0]), weight)
    return total


class Adapted(Protocol):
    """A linear layer with K adapters: A [K, r, in] and B [K, out, r]; `base` is a plain `nn.Linear`."""

    base: Any
    lora_a: torch.Tensor
    lora_b: torch.Tensor
    scale: float
    module_index: int
    same_input: "SameInput"

    def mask(self, layers: int = 1) -> torch.Tensor | None:
        """Keep masks of this layer and those behind it, [layers, K, T, r]; None without dropout."""


class SameInput:
    """Layers that are expected to read the same input, in the order in which they are called. The first computes the
    answers of all; where a later one meets another input, it computes its own."""

    def __init__(self, layers: Sequence[Adapted]):
        self.layers, self.shared = layers, True
        self._differs = False
        """True once a layer has met another input."""
        self._input: torch.Tensor | None = None
        self._answers: list[torch.Tensor] = []

    def answer(self, layer: Adapted, x: torch.Tensor) -> torch.Tensor:
        """The layer's y of x [..., in], whose tokens lie run by run."""
        index = next(index for index, member in enumerate(self.layers) if member is layer)
        if index and x is self._input and len(self._answers) == len(self.layers) - index:
            answer = self._answers.pop(0)
            self._input = x if self._answers else None
            return answer
        self._differs |= self.shared and index > 0
        answer, *self._answers = products(self.layers if self.shared and index == 0 else [layer], x)
        self._input = x if self._answers else None
        return answer

    def settle(self) -> None:
        """Let each layer compute its own from now on if one has met another input. Not while a pass is under way:
        gradient checkpointing computes it again, with the same products."""
        self.shared &= not self._differs


def products(layers: Sequence[Adapted], x: torch.Tensor) -> list[torch.Tensor]:
    """Answers of layers that read x [..., in], whose tokens lie run by run."""
    packed = x.reshape(len(layers[0].lora_a), -1, x.shape[-1])
    tensors = [
        *(layer.base.weight for layer in layers),
        *(layer.base.bias for layer in layers),
        *(layer.lora_a for layer in layers),
        *(layer.lora_b for layer in layers),
    ]
    answers = LoraProducts.apply(packed, layers[0].mask(len(layers)), layers[0].scale, len(layers), *tensors)
    return [answer.view(*x.shape[:-1], -1) for answer in answers]


def same_inputs(layers: Mapping[str, Adapted]) -> list[SameInput]:
    """Groups of layers, by their full names in the model, that are expected to read the same input. Dropout masks of a
    group lie side by side, so a layer whose mask lies elsewhere is a group of its own."""
    groups: list[list[Adapted]] = []
    key_before: tuple[str, ...] = ()
    for name, layer in layers.items():
        parent, _, leaf = name.rpartition(".")
        key = (parent, *next((leaves for leaves in SAME_INPUT if leaf in leaves), (leaf,)))
        if key == key_before and layer.module_index == groups[-1][-1].module_index + 1:
            groups[-1].append(layer)
        else:
            groups.append([layer])
        key_before = key
    return [SameInput(group) for group in groups]


def share_inputs(layers: Mapping[str, Adapted]) -> None:
    """Let layers that are expected to read the same input share their products."""
    for group in same_inputs(layers):
        for layer in group.layers:
            layer.same_input = group
