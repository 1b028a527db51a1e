"""Full-parameter fine-tuning on shards: DeepSpeed's ZeRO 1, 2 and 3 over the model's own weights.

Whole vectors of weights and moments, [P] in fp32, are on the main rank's host alone; ranks exchange them piece by
piece, so that no device ever holds one.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import distributed, nn

from p2p_dist.config.study import TrainSpec
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.forward import PASSES, Sharded
from p2p_dist.modeling.full_weights import FullWeights
from p2p_dist.planning.memory import BUCKET_ELEMENTS
from p2p_dist.training.engine import Execution
from p2p_dist.training.zero import ZeroEngine, deepspeed_config, import_deepspeed, require_sharding, shard

NOTHING = torch.empty(0)
"""A whole vector, on all ranks but the main one."""


class WholeModel(nn.Module):
    """The model as what DeepSpeed wraps."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, name: str, *tensors: Any) -> torch.Tensor:
        """One of the passes of `modeling.forward`, by name."""
        return PASSES[name](self.model, *tensors)


class ZeroFullEngine(ZeroEngine):
    """The weights of one run on all ranks of a process group, sharded as ZeRO's stage says."""

    def __init__(
        self, base: Base, weights: FullWeights, spec: TrainSpec, steps: int, start: torch.Tensor, execution: Execution
    ):
        """`start` is [P] in fp32 on the main rank, or empty for the weights as they are."""
        require_sharding(weights.runs, spec, execution)
        deepspeed = import_deepspeed()
        self.spec, self.steps, self.ranks = spec, steps, execution.ranks
        self.size, self.stage, self.weights = weights.size, execution.zero, weights
        if start.numel():
            weights.load(0, start)  # of the main rank, whose weights count
        module = WholeModel(base.model).requires_grad_()
        config = deepspeed_config(spec, execution, base.dtype, min(weights.size, BUCKET_ELEMENTS))
        if execution.zero == 3:
            shard(deepspeed, module.model, config, execution)
            module.requires_grad_()
        trained = [weight for _, weight in weights.weights()]
        optimizer = torch.optim.AdamW(trained, lr=spec.learning_rate, weight_decay=spec.weight_decay, foreach=False)
        self.engine, *_ = deepspeed.initialize(
            model=module, model_parameters=trained, optimizer=optimizer, config=config
        )
        self.base = replace(base, model=Sharded(self.engine, base.model), weight_checksum=None)
        if self.ranks.any(start.numel() > 0):
            self._scatter(None, start)  # the weights are rounded, their masters are not

    def state(self, run: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Weights and moments, [P] each on the main rank's host; empty on all others."""
        return self.values(run), self._gathered("exp_avg"), self._gathered("exp_avg_sq")

    def restore(self, run: int, done: int, first: torch.Tensor, second: torch.Tensor) -> None:
        """Go on after `done` steps with the main rank's moments."""
        for masters in self._partitions():
            moments = {"exp_avg": torch.zeros_like(masters), "exp_avg_sq": torch.zeros_like(masters)}
            self.engine.optimizer.optimizer.state[masters] = {"step": torch.tensor(float(done)), **moments}
        self._scatter("exp_avg", first)
        self._scatter("exp_avg_sq", second)

    def values(self, run: int) -> torch.Tensor:
        """The weights, [P] in fp32 on the main rank's host; empty on all others."""
        return self._gathered(None)

    def close(self) -> None:
        super().close()
        if self.stage < 3:
            self.weights.no_gradients()

    def load(self, values: torch.Tensor) -> None:
        """Compute with the main rank's weights, [P] of any float type, from now on (ZeRO-3, for evaluation)."""
        gathered = import_deepspeed().zero.GatheredParameters
        for view, weight in self.weights.weights():
            with gathered([weight], modifier_rank=0), torch.no_grad():
                if self.ranks.main:
                    weight.copy_(values[view.start : view.stop].view(view.shape))

    def _partitions(self) -> list[torch.Tensor]:
        """This rank's fp32 numbers, as the optimiser knows them."""
        optimizer = self.engine.optimizer
        pieces = (
            optimizer.fp32_partitioned_groups_flat if self.stage == 3 else optimizer.single_partition_of_fp32_groups
        )
        return list(pieces)

    def _pieces(self, key: str | None) -> Iterator[tuple[slice, torch.Tensor]]:
        """Ranges of the whole vector that are cut over the ranks, and this rank's part of each, the last with filler:
        every weight by itself under ZeRO-3, else all of them. `key` is None for the numbers, or names a moment."""
        if self.stage == 3:
            for view, weight in self.weights.weights():
                zero = weight._z3_optimizer  # type: ignore[attr-defined]  # set by DeepSpeed
                part, _ = zero._get_fp32_opt_state_partition(weight, False, key)
                yield slice(view.start, view.stop), part
            return
        (masters,) = self._partitions()
        yield slice(0, self.size), masters if key is None else self.engine.optimizer.optimizer.state[masters][key]

    @torch.no_grad()
    def _gathered(self, key: str | None) -> torch.Tensor:
        vector = torch.empty(self.size) if self.ranks.main else NOTHING
        for range_, part in self._pieces(key):
            for rank, target in enumerate(_cut(range_, part.numel(), self.ranks.world)):
                sent = torch.empty_like(part, device=self.base.device)
                distributed.broadcast(sent.copy_(part) if rank == self.ranks.rank else sent, src=rank)
                if self.ranks.main:
                    vector[target] = sent[: target.stop - target.start].cpu()
        return vector

    @torch.no_grad()
    def _scatter(self, key: str | None, vector: torch.Tensor) -> None:
        for range_, part in self._pieces(key):
            for rank, target in enumerate(_cut(range_, part.numel(), self.ranks.world)):
                count = target.stop - target.start
                received = torch.empty(count, device=self.base.device)
                distributed.broadcast(received.copy_(vector[target]) if self.ranks.main else received, src=0)
                if rank == self.ranks.rank:
                    part[:count].copy_(received)


def _cut(range_: slice, size: int, world: int) -> list[slice]:
    """The parts of a range of the ranks, `size` each; the last are shorter or empty."""
    ends = [min(range_.start + rank * size, range_.stop) for rank in range(world + 1)]
    return [slice(first, last) for first, last in pairwise(ends)]
