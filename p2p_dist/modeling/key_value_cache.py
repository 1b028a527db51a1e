"""Key-value cache of packed rows that are continued token by token.

The cache does not grow: every layer has room for `slots` rows of `length` tokens, each token is written at its place,
and a row that enters a slot takes the place of one that ended. No layer sees a row's padding, because there is none.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

GRAIN = 64
"""Attention reads multiples of so many tokens, so that kernels meet few shapes."""


class KeyValueCache:
    """Keys [slots, length, G, D] and values [slots, length, G, E] of every attention layer, in the order in which a
    forward pass calls them. Memory is taken in the first pass."""

    def __init__(self, slots: int, length: int):
        self.slots, self.length = slots, length
        self.layers: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._places = torch.empty(0)
        self._next = 0

    def begin(self, places: torch.Tensor) -> None:
        """A new forward pass, whose first n tokens are written to `places` [n]: slot * length + position."""
        self._places, self._next = places, 0

    def write(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the next layer's keys [1, G, T, D] and values [1, G, T, E]. Returns all that it has,
        [slots, length, G, D] and [slots, length, G, E]."""
        states = (key, value)
        if self._next == len(self.layers):
            keys, values = (each.new_zeros(self.slots, self.length, each.shape[1], each.shape[3]) for each in states)
            self.layers.append((keys, values))
        layer = self.layers[self._next]
        self._next += 1
        for cached, new in zip(layer, states, strict=True):
            cached.view(-1, *cached.shape[2:]).index_copy_(0, self._places, new[0].transpose(0, 1)[: len(self._places)])
        return layer

    def clear(self, slots: torch.Tensor) -> None:
        """Forget what the rows of these slots [n] have left: a number that is not finite would outlast its mask."""
        for layer in self.layers:
            for cached in layer:
                cached.index_fill_(0, slots, 0)

    def move(self, to: torch.Tensor, source: torch.Tensor) -> None:
        """Copy the rows of the slots `source` [n] to the slots `to` [n]; no slot is among both."""
        for layer in self.layers:
            for cached in layer:
                cached.index_copy_(0, to, cached.index_select(0, source))


@dataclass(frozen=True)
class NextTokens:
    """One token for each of the rows in the first B slots of a cache, in place of packed rows in a forward pass.

    Shape: `positions` [B] of the tokens in their rows, at most `longest`.
    """

    cache: KeyValueCache
    positions: torch.Tensor
    longest: int
    _masks: dict[int | None, torch.Tensor] = field(default_factory=dict, compare=False, repr=False)

    @property
    def read(self) -> int:
        """Tokens of every row that attention reads, masked ones included."""
        return min(self.cache.length, -(-(self.longest + 1) // GRAIN) * GRAIN)

    def mask(self, window: int | None) -> torch.Tensor:
        """Tokens that each row looks at, the last `window` or all, [B, 1, 1, read]."""
        if window not in self._masks:
            places, current = torch.arange(self.read, device=self.positions.device), self.positions[:, None]
            visible = places <= current
            if window is not None:
                visible &= places > current - window
            self._masks[window] = visible[:, None, None]
        return self._masks[window]

    def cached(self, key: torch.Tensor, value: torch.Tensor) -> Sequence[torch.Tensor]:
        """Write the next layer's keys [1, G, B, D] and values [1, G, B, E]; all of the rows', [B, G, read, D or E]."""
        rows = len(self.positions)
        return [each[:rows, : self.read].transpose(1, 2) for each in self.cache.write(key, value)]
