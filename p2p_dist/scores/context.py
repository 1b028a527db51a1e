"""Input and output of the score methods."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from p2p_dist.config.study import TrainSpec
from p2p_dist.data.built import Built, Suite
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.lora import Adapters
from p2p_dist.modeling.tokenization import Encoder
from p2p_dist.results.scorestore import Unfinished

Line = Mapping[str, object]
"""Numbers of one row: `set`, `id` and named numbers."""
OnProgress = Callable[[int, int], None]
"""Called with (rows or steps done, total); may raise to stop."""


@dataclass(frozen=True)
class Context:
    """A loaded model and the rows of a data stage."""

    base: Base
    adapters: Adapters | None
    """The tuned adapter, or a fresh one to train; None for a model of its own."""
    train: TrainSpec
    seed: int
    built: Built
    on_progress: OnProgress = lambda done, total: None
    start: torch.Tensor | None = None
    """Numbers [P] that a training starts from in place of fresh ones: the attacker's adapter."""

    unfinished: Unfinished | None = None
    """Texts that an earlier attempt has made, and those of this one."""

    @property
    def encoder(self) -> Encoder:
        """Encoder of prompts, as in training and evaluation."""
        return Encoder.of(self.base, self.built, self.train.max_length, self.train.image_tokens)

    def sets(self, names: Sequence[str]) -> Iterator[tuple[str, Suite]]:
        """Sets of rows by name: `train`, `reserve`, a test suite, or `suites` for all test suites."""
        for name in names:
            if name == "suites":
                yield from self.built.suites.items()
            elif name in ("train", "reserve"):
                yield name, Suite(self.built.train if name == "train" else self.built.reserve, 0, triggered=False)
            else:
                yield name, self.built.suites[name]
