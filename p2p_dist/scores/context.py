"""What a scoring method is given, and what it gives back."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from p2p_dist.config.study import TrainSpec
from p2p_dist.data.build import Built, Suite
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.lora import Adapters
from p2p_dist.modeling.tokenization import Encoder

Line = Mapping[str, Any]
"""Numbers of one row: `set`, `id` and named numbers."""
Tick = Callable[[int, int], None]
"""Called with (done, of) now and then; may raise to stop."""


@dataclass(frozen=True)
class Context:
    """A loaded model over the rows of a data stage. `adapters` holds the tuned adapter, a fresh one to train, or, for a
    model of its own, None."""

    base: Base
    adapters: Adapters | None
    train: TrainSpec
    seed: int
    built: Built
    options: Mapping[str, Any]
    """The method's options, its name left out."""
    tick: Tick = lambda done, of: None
    start: torch.Tensor | None = None
    """Numbers [P] that a training begins with in place of fresh ones: an adapter that was handed on poisoned."""

    @property
    def encoder(self) -> Encoder:
        """Prompts as training and evaluation render them."""
        return Encoder(self.base.tokenizer, self.built.labels.words, self.train.max_length, self.built.triggers)

    def sets(self) -> Iterator[tuple[str, Suite]]:
        """The row sets that the option `sets` names: train, reserve, suites by name, or all suites."""
        for name in self.options["sets"]:
            if name == "suites":
                yield from self.built.suites.items()
            elif name in ("train", "reserve"):
                yield name, Suite(self.built.train if name == "train" else self.built.reserve, 0, triggered=False)
            else:
                yield name, self.built.suites[name]


Method = Callable[[Context], list[Line]]
