"""fp32 masters, clipping, AdamW and the learning rate, each run of a cohort on its own."""

import math
from collections.abc import Sequence

import torch

from p2p_dist.config.study import TrainSpec
from p2p_dist.modeling.lora import Adapters
from p2p_dist.training.adamw_8bit import adamw_8bit, moments_of, restore
from p2p_dist.training.reparametrization import Generator


class CohortOptimizer:
    """AdamW over one flat fp32 vector per run (betas 0.9, 0.999; eps 1e-8): the adapter's numbers [P], or those [Q]
    that generate it."""

    def __init__(
        self,
        adapters: Adapters,
        specs: Sequence[TrainSpec],
        steps: Sequence[int],
        starts: Sequence[torch.Tensor],
        generator: Generator | None = None,
    ):
        self.adapters, self.specs, self.steps, self.generator = adapters, specs, steps, generator
        device = adapters.flat_params.device
        self.masters = [torch.nn.Parameter(start.to(device)) for start in starts]
        for run in range(len(self.masters)):
            adapters.load(run, self.values(run))
        self.adamw = [adamw(master, spec, fused=True) for master, spec in zip(self.masters, specs, strict=True)]

    def step(self, run: int, done: int, grad: torch.Tensor) -> float:
        """One update of one run from its adapter's gradient, [P] in fp32; `done` steps came before. Returns the norm,
        before clipping, of the gradient of what is trained; when that is not finite, nothing is changed."""
        spec, master = self.specs[run], self.masters[run]
        if self.generator is not None:
            grad = self.generator.pulled_back(master, grad)
        norm = float(grad.norm())
        if not math.isfinite(norm):
            return norm
        if spec.max_grad_norm is not None and norm > spec.max_grad_norm:
            grad = grad * (spec.max_grad_norm / norm)
        master.grad = grad
        self.adamw[run].param_groups[0]["lr"] = learning_rate(spec, done, self.steps[run])
        self.adamw[run].step()
        self.adapters.load(run, self.values(run))
        return norm

    def values(self, run: int) -> torch.Tensor:
        """The adapter of one run, [P] in fp32."""
        numbers = self.masters[run].detach()
        return numbers if self.generator is None else self.generator.values(numbers)

    def moments(self, run: int) -> tuple[torch.Tensor, torch.Tensor]:
        """First and second moment of one run, [P] each."""
        state = self.adamw[run].state[self.masters[run]]
        return moments_of(state) if self.specs[run].optimizer else (state["exp_avg"], state["exp_avg_sq"])

    def restore(self, run: int, done: int, first: torch.Tensor, second: torch.Tensor) -> None:
        """Go on after `done` steps with these moments."""
        master = self.masters[run]
        if self.specs[run].optimizer:
            restore(self.adamw[run], master, done, first, second)
            return
        count = torch.tensor(float(done), device=master.device)
        self.adamw[run].state[master] = {
            "step": count,
            "exp_avg": first.to(master.device),
            "exp_avg_sq": second.to(master.device),
        }


def adamw(numbers: torch.Tensor, spec: TrainSpec, fused: bool = False) -> torch.optim.Optimizer:
    """The optimiser of one run over its flat numbers [P]."""
    if spec.optimizer == "adamw_8bit":
        return adamw_8bit(numbers, spec.learning_rate, spec.weight_decay)
    return torch.optim.AdamW([numbers], lr=spec.learning_rate, weight_decay=spec.weight_decay, fused=fused)


def learning_rate(spec: TrainSpec, done: int, steps: int) -> float:
    """The rate of the step after `done` of `steps` steps: warm-up, then linear or cosine decay to 0, or constant."""
    if done < spec.warmup_steps:
        return spec.learning_rate * (done + 1) / spec.warmup_steps
    if spec.lr_scheduler_type == "constant":
        return spec.learning_rate
    progress = (done - spec.warmup_steps) / max(1, steps - spec.warmup_steps)
    if spec.lr_scheduler_type == "linear":
        return spec.learning_rate * (1 - progress)
    return spec.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
