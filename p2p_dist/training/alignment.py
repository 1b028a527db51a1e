"""Gradients whose direction trusted rows give (MuScleLoRA, arXiv 2402.12026; its released code's `ga_trainer`).

Each matrix's gradient g becomes |g . r| / |r|^2 * r, with r the gradient of a batch of trusted rows: suspect rows
decide the length of a step and not its direction. The absolute value is the released code's: a step is taken along r
even where g points away from it.
"""

from collections.abc import Sequence

import torch

from p2p_dist.config.study import TrainSpec
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.lora import Adapters
from p2p_dist.modeling.packing import grouping, pack
from p2p_dist.modeling.transfer import sent
from p2p_dist.training.engine import Engine, PlainEngine
from p2p_dist.training.objectives import cross_entropy
from p2p_dist.training.ranks import Ranks
from p2p_dist.training.train_run import Aligned


class AlignedEngine(PlainEngine):
    """Plain training with aligned gradients. Every rank computes the trusted batch as a whole, without dropout."""

    def __init__(
        self,
        base: Base,
        adapters: Adapters,
        specs: Sequence[TrainSpec],
        steps: Sequence[int],
        starts: Sequence[torch.Tensor],
        ranks: Ranks,
        aligned: Sequence[Aligned],
    ):
        super().__init__(base, adapters, specs, steps, starts, ranks)
        self.specs, self.steps, self.aligned = specs, steps, aligned

    def update(self, runs: Sequence[int], done: Sequence[int], losses: torch.Tensor) -> torch.Tensor:
        """As `step`, one run after the other: the update of all runs at once on a GPU knows no alignment."""
        return Engine.update(self, runs, done, losses)

    def step(self, run: int, done: int, loss: torch.Tensor) -> torch.Tensor:
        suspect = (self.adapters.flat_grads[run].float() if self.sums is None else self.sums[run]).clone()
        reference = self._reference(run, done)
        spans = [slice(view.start, view.stop) for view in self.adapters.layout]
        grad = aligned(suspect, reference, spans)
        epochs = self.specs[run].num_train_epochs
        share = self.aligned[run].method.raw * (done * epochs // self.steps[run]) / epochs
        return self.optimizer.step(run, done, torch.lerp(grad, suspect, share), loss)

    def _reference(self, run: int, done: int) -> torch.Tensor:
        """Gradient [P] of this step's trusted rows, which follow each other in turn."""
        rows, size = self.aligned[run].rows, self.aligned[run].method.batch
        chosen = [rows[(done * size + index) % len(rows)] for index in range(min(size, len(rows)))]
        batch = pack([chosen], grouping(self.base.device)).to(self.base.device)
        grads = self.adapters.flat_grads
        unaligned = grads[run].clone()
        grads[run].zero_()
        self.adapters.select_runs(slice(run, run + 1))
        counts = sent(torch.tensor([len(batch.targets)]), self.base.device)
        cross_entropy(self.base, batch, counts).sum().backward()
        reference = grads[run].float().clone()
        grads[run].copy_(unaligned)
        return reference


def aligned(suspect: torch.Tensor, reference: torch.Tensor, spans: Sequence[slice]) -> torch.Tensor:
    """The gradient [P] along the reference [P], matrix by matrix; 0 for a matrix whose reference is 0."""
    result = torch.zeros_like(suspect)
    for span in spans:
        g, r = suspect[span], reference[span]
        result[span] = (g @ r).abs() / r.square().sum().clamp(min=torch.finfo(r.dtype).tiny) * r
    return result
