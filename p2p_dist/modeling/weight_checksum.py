"""Checksum of frozen weights, computed on their device at memory speed, to detect changes.

Not secure against an adversary: SHA-256 would take 20 s for a model of 14 billion weights, which would have to leave
the GPU. Every change of one word of 8 bytes is detected; any other is missed with a probability of about 2**-64.
"""

from collections.abc import Iterable

import torch
from torch import nn

_WORDS = {"cpu": 1 << 18, "cuda": 1 << 24}
"""Words that are summed at a time: factors that stay in the cache of a core, and few launches on a GPU."""
_MIX = 0x5851F42D4C957F2D
"""An odd multiplier (Knuth's MMIX generator), so that equal sums at other places are other checksums."""


class WeightChecksum:
    """The weights of a model, by object and by content, at the moment it was made."""

    def __init__(self, model: nn.Module):
        self.weights = list(model.parameters())
        self.sum = checksum(self.weights)

    def holds(self, model: nn.Module) -> bool:
        """True if all of these weights are still in the model, bit for bit."""
        present = {id(weight) for weight in model.parameters()}
        return all(id(weight) in present for weight in self.weights) and checksum(self.weights) == self.sum


@torch.no_grad()
def checksum(tensors: Iterable[torch.Tensor]) -> int:
    """64 bits over the bytes of tensors of any type, in order, computed on their own devices."""
    total = 0
    factors: dict[torch.device, torch.Tensor] = {}
    for tensor in tensors:
        size = _WORDS.get(tensor.device.type, _WORDS["cuda"])
        if tensor.device not in factors:
            factors[tensor.device] = torch.arange(size, device=tensor.device).mul_(2 * _MIX).add_(_MIX)
        content = tensor.detach().contiguous().flatten().view(torch.uint8)
        aligned = content.numel() // 8 * 8
        pieces = [*content[:aligned].view(torch.int64).split(size), content[aligned:].long()]
        sums = [_product(piece, factors[tensor.device][: len(piece)]) for piece in pieces if len(piece)]
        for value in torch.stack(sums).tolist() if sums else []:
            total = (total * _MIX + value) % 2**64
    return total


def _product(words: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """The sum of products modulo 2**64. On CPUs a dot product reads 6 GB/s on one core, twice as many as with a copy
    between."""
    return words.dot(factors) if words.device.type == "cpu" else (words * factors).sum()
