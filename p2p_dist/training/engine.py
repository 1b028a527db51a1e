"""Execution of a cohort's step: forward and backward over this rank's share, the sum over ranks, the update.

`PlainEngine` holds the whole base on every rank and sums one flat gradient. `training.zero` shards by DeepSpeed's ZeRO.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from p2p_dist.config.study import TrainSpec
from p2p_dist.errors import user_error
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.compiled_layers import compiler
from p2p_dist.modeling.full_weights import FullWeights, Trainable
from p2p_dist.modeling.lora import Adapters
from p2p_dist.modeling.packing import Batch
from p2p_dist.training.objectives import Loss, cross_entropy
from p2p_dist.training.optimizer import CohortOptimizer
from p2p_dist.training.pass_graphs import PassGraphs
from p2p_dist.training.ranks import Ranks
from p2p_dist.training.reparametrization import Generator

Offload = Literal["none", "optimizer", "all"]


@dataclass(frozen=True)
class Execution:
    """Layout of a training on the hardware; no part of its identity."""

    ranks: Ranks = field(default_factory=Ranks)
    micro_batch: int | None = None
    """Rows of one run in one forward pass of one rank; None takes a rank's whole share of the global batch."""
    zero: int = 0
    """DeepSpeed's ZeRO stage; 0 keeps everything on every rank and uses no DeepSpeed."""
    offload: Offload = "none"
    """State that DeepSpeed keeps in host memory: the optimizer's, and for `all` (ZeRO-3) the base too."""

    gradient_checkpointing: bool = False
    """Gradient checkpointing: decoder layers are computed once more in the backward pass, and keep their input
    alone."""
    hpz: int = 1
    """ZeRO-3: ranks that hold a whole copy of the base among them (hpZ); the ranks of one node, so that gathers stay
    there."""
    deterministic: bool = True
    """Deterministic kernels alone."""
    cuda_graphs: bool = False
    """Passes of adapters with the plain loss are repeated as CUDA graphs, which give the same bits."""

    @property
    def topology(self) -> str:
        """The layout in words. A run that was resumed under another one has the same samples, but not the same bits."""
        micro = f", micro-batch {self.micro_batch}" if self.micro_batch else ""
        kernels = "" if self.deterministic else ", not deterministic"
        return f"{f'zero{self.zero}' if self.zero else 'plain'} x {self.ranks.world}{micro}{kernels}"


def hardware(device: torch.device) -> str:
    """Hardware that decides the order of sums in a rank: model of the GPU, or threads and vector instructions of the
    CPU."""
    if device.type == "cuda":
        processors = torch.cuda.get_device_properties(device).multi_processor_count
        return f"{torch.cuda.get_device_name(device)}, {processors} SMs"  # random numbers are shared out over them
    return f"{torch.get_num_threads()} threads with {torch.backends.cpu.get_cpu_capability()}"


def layout(execution: Execution, device: torch.device, spec: TrainSpec) -> str:
    """Everything in words that decides the order of sums and the roundings of a run, and is not in its id."""
    compiled = f", layers compiled by {compiler()}" if spec.compile and device.type == "cpu" else ""
    return f"{execution.topology}, {hardware(device)}{compiled}"


def refuse_for_zero(has_objective: bool, is_generated: bool, is_compiled: bool = False) -> None:
    """Raise UserError E265, E268 or E320 for a training that DeepSpeed's engine cannot do."""
    fix = "use plain training (--zero 0), or exclude the defense"
    if has_objective:
        raise user_error("E265", "a loss or a gradient other than the plain one is not built for ZeRO", "--zero", fix)
    if is_generated:
        raise user_error("E268", "generated adapters are not built for ZeRO", "--zero", fix)
    if is_compiled:
        fix = "use plain training (--zero 0), or remove train.compile"
        raise user_error("E320", "compiled layers are not built for ZeRO", "--zero", fix)


class Engine(ABC):
    """Gradients and updates of K runs, the same on all ranks."""

    lockstep = False
    """True if every rank has to make every forward pass, rows or not."""
    graphs: PassGraphs | None = None
    """CUDA graphs that repeat passes, where they do."""

    @abstractmethod
    def begin(self, micro_batches: int) -> None:
        """A new step, of so many micro-batches of every run."""

    @abstractmethod
    def accumulate(self, runs: slice, batch: Batch, counts: torch.Tensor, last: bool) -> torch.Tensor:
        """Add the gradient of one micro-batch of these runs (k of them). `counts` [k] are the answer tokens of each
        run's whole global batch, by which its sum is divided; `last` is true for the last micro-batch of a step.
        Returns this rank's part of the losses, [k]."""

    @abstractmethod
    def finish(self, losses: torch.Tensor) -> torch.Tensor:
        """Sum gradients and losses over the ranks: mean loss over the label tokens of each run, [K]."""

    @abstractmethod
    def step(self, run: int, done: int, loss: torch.Tensor) -> torch.Tensor:
        """One update of one run; `done` steps came before. Returns the gradient norm before clipping, a scalar on the
        device; the run has diverged, and is not changed, when that or its loss is not finite."""

    def update(self, runs: Sequence[int], done: Sequence[int], losses: torch.Tensor) -> torch.Tensor:
        """As `step`, of n of the K runs, whose losses are [K]. Returns their norms, [n]."""
        return torch.stack([self.step(run, before, losses[run]) for run, before in zip(runs, done, strict=True)])

    @abstractmethod
    def state(self, run: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Trained parameters of the run and both moments of AdamW, un-sharded, [P] each in fp32, or [Q] where the
        adapter is generated. All ranks must call it."""

    @abstractmethod
    def restore(self, run: int, done: int, first: torch.Tensor, second: torch.Tensor) -> None:
        """Go on after `done` steps with these moments."""

    @abstractmethod
    def values(self, run: int) -> torch.Tensor:
        """The run's numbers, un-sharded, [P] in fp32. All ranks must call it."""

    def close(self) -> None:
        """Let go of what only training needs. The base stays as the engine holds it."""
        return None


class PlainEngine(Engine):
    """Everything on every rank: one flat gradient buffer is summed, and each rank makes the same update."""

    def __init__(
        self,
        base: Base,
        adapters: Trainable,
        specs: Sequence[TrainSpec],
        steps: Sequence[int],
        starts: Sequence[torch.Tensor],
        ranks: Ranks,
        loss: Loss = cross_entropy,
        generator: Generator | None = None,
    ):
        self.base, self.adapters, self.ranks, self.loss = base, adapters, ranks, loss
        self.optimizer = CohortOptimizer(adapters, specs, steps, starts, generator)
        self.sums: torch.Tensor | None = None
        """Gradients of a step of several micro-batches or ranks, [K, P] in fp32."""
        self.grads = torch.zeros_like(adapters.flat_grads, dtype=torch.float32) if self.optimizer.together else None
        """Memory of the same on a GPU, where it stays: gradients are always clipped in it."""

    def repeat_passes(self, is_exact: bool) -> None:
        """Repeat passes as CUDA graphs from now on. `is_exact`: kernels are deterministic."""
        assert isinstance(self.adapters, Adapters)
        self.graphs = PassGraphs(self.adapters, self._pass, is_exact)

    def begin(self, micro_batches: int) -> None:
        self.adapters.flat_grads.zero_()
        if isinstance(self.adapters, Adapters):
            self.adapters.settle_products()
        # One micro-batch needs no sum, and several one that does not round to the compute copy's precision.
        self.sums = None
        if micro_batches > 1 and self.grads is not None:
            self.sums = self.grads.zero_()
        elif micro_batches > 1:
            self.sums = torch.zeros_like(self.adapters.flat_grads, dtype=torch.float32)

    def accumulate(self, runs: slice, batch: Batch, counts: torch.Tensor, last: bool) -> torch.Tensor:
        self.adapters.select_runs(runs)
        losses = self._pass(batch, counts) if self.graphs is None else self.graphs.losses(runs, batch, counts)
        if self.sums is not None:
            self.sums[runs] += self.adapters.flat_grads[runs].float()
            self.adapters.flat_grads[runs].zero_()
        return losses

    def _pass(self, batch: Batch, counts: torch.Tensor) -> torch.Tensor:
        """Losses of the selected runs; their gradients are added to `flat_grads`."""
        losses = self.loss(self.base, batch, counts)
        losses.sum().backward()
        return losses.detach()

    def finish(self, losses: torch.Tensor) -> torch.Tensor:
        if self.ranks.world > 1:
            self.sums = self.ranks.sum(self.adapters.flat_grads.float() if self.sums is None else self.sums)
        return self.ranks.sum(losses)

    def step(self, run: int, done: int, loss: torch.Tensor) -> torch.Tensor:
        grad = self.adapters.flat_grads[run].float() if self.sums is None else self.sums[run]
        return self.optimizer.step(run, done, grad, loss)

    def update(self, runs: Sequence[int], done: Sequence[int], losses: torch.Tensor) -> torch.Tensor:
        if self.grads is None:
            return super().update(runs, done, losses)
        if self.sums is not self.grads:
            self.grads.copy_(self.adapters.flat_grads if self.sums is None else self.sums)
        return self.optimizer.step_together(runs, done, self.grads, losses)

    def state(self, run: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self._same(run, self.optimizer.masters[run].detach()), *self.optimizer.moments(run)

    def restore(self, run: int, done: int, first: torch.Tensor, second: torch.Tensor) -> None:
        self.optimizer.restore(run, done, first, second)

    def close(self) -> None:
        self.graphs = self.sums = self.grads = None
        del self.optimizer  # the evaluation behind it has the memory
        if isinstance(self.adapters, FullWeights):  # as large as the model
            self.adapters.no_gradients()

    def values(self, run: int) -> torch.Tensor:
        return self._same(run, self.optimizer.values(run))

    def _same(self, run: int, value: torch.Tensor) -> torch.Tensor:
        if not self.ranks.same(value):
            raise RuntimeError(
                f"the ranks disagree about the adapter of run {run}: a rank computes wrong numbers (bad memory or a "
                "bad device)"
            )
        return value
