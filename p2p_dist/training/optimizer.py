"""fp32 masters, clipping, AdamW and the learning rate, each run of a cohort on its own."""

import math
from collections.abc import Sequence

import torch

from p2p_dist.config.study import TrainSpec
from p2p_dist.modeling.full_weights import FullWeights, Trainable
from p2p_dist.modeling.lora import Adapters
from p2p_dist.training.adamw_8bit import adamw_8bit, moments_of, restore
from p2p_dist.training.reparametrization import Generator


class CohortOptimizer:
    """AdamW over one flat fp32 vector per run (betas 0.9, 0.999; eps 1e-8): the numbers [P] of the adapter or of all
    weights, or those [Q] that generate an adapter."""

    def __init__(
        self,
        adapters: Trainable,
        specs: Sequence[TrainSpec],
        steps: Sequence[int],
        starts: Sequence[torch.Tensor],
        generator: Generator | None = None,
    ):
        self.adapters, self.specs, self.steps, self.generator = adapters, specs, steps, generator
        device = adapters.flat_params.device
        plain = generator is None and not any(spec.optimizer for spec in specs)
        self.together = device.type != "cpu" and plain and isinstance(adapters, Adapters)
        """True where `step_together` is the cheaper form: a GPU starts few operations then. CPUs keep their bits."""
        self.stacked = torch.stack([start.to(device) for start in starts]) if self.together else None
        """Memory of the masters of all runs, [K, P]."""
        numbers = [start.to(device) for start in starts] if self.stacked is None else self.stacked.unbind()
        self.masters = [torch.nn.Parameter(each) for each in numbers]
        limits = [math.inf if spec.max_grad_norm is None else spec.max_grad_norm for spec in specs]
        self._limits = torch.tensor(limits, dtype=torch.float64).to(device)
        for run in range(len(self.masters)):
            adapters.load(run, self.values(run))
        self.adamw = [adamw(master, spec, fused=True) for master, spec in zip(self.masters, specs, strict=True)]

    def step(self, run: int, done: int, grad: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
        """One update of one run from its adapter's gradient, [P] in fp32; `done` steps came before. Returns the norm,
        before clipping, of the gradient of what is trained; when that or the loss is not finite, nothing is changed.

        The host waits for no value of a GPU: the scale and the decision to update are made there (AdamW's `found_inf`).
        """
        spec, master, adamw_ = self.specs[run], self.masters[run], self.adamw[run]
        if self.generator is not None:
            grad = self.generator.pulled_back(master, grad)
        norm = grad.norm()
        finite = norm.isfinite() & loss.isfinite()
        skips = grad.device.type != "cpu" and not spec.optimizer
        if skips:
            adamw_.found_inf = (~finite).float()  # type: ignore[attr-defined]  # read by torch's fused AdamW
        elif not bool(finite):
            return norm
        master.grad = clipped(grad, norm, spec.max_grad_norm)
        adamw_.param_groups[0]["lr"] = learning_rate(spec, done, self.steps[run])
        adamw_.step()
        if isinstance(self.adapters, FullWeights):
            master.grad = None  # as large as the model
        self.adapters.load(run, self.values(run))
        return norm

    def step_together(
        self, runs: Sequence[int], done: Sequence[int], grads: torch.Tensor, losses: torch.Tensor
    ) -> torch.Tensor:
        """One update of these runs (n of K) from the gradients of all, [K, P] in fp32, which are clipped in place, and
        the losses of all, [K]; `done` steps of each came before. Returns the norms as `step` does, [n]."""
        norms = torch.linalg.vector_norm(grads, dim=1)
        diverged = (~torch.stack([norms, losses]).isfinite().all(0)).float()
        grads.mul_(torch.where(norms > self._limits, self._limits / norms.double(), 1.0).float()[:, None])
        for run, steps in zip(runs, done, strict=True):
            adamw_, self.masters[run].grad = self.adamw[run], grads[run]
            adamw_.found_inf = diverged[run]  # type: ignore[attr-defined]  # read by torch's fused AdamW
            adamw_.param_groups[0]["lr"] = learning_rate(self.specs[run], steps, self.steps[run])
            adamw_.step()
        assert self.stacked is not None
        assert isinstance(self.adapters, Adapters)
        self.adapters.load_all(self.stacked)
        return norms if len(runs) == len(norms) else torch.stack([norms[run] for run in runs])

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


def clipped(grad: torch.Tensor, norm: torch.Tensor, limit: float | None) -> torch.Tensor:
    """The gradient [P] scaled down to the norm `limit` where its `norm` is larger; the same bits on every device. The
    host waits for the norm only where that costs nothing."""
    if limit is None:
        return grad
    if grad.device.type == "cpu":
        return grad * (limit / float(norm)) if float(norm) > limit else grad
    return grad * clip_scale(norm, limit)


def clip_scale(norm: torch.Tensor, limit: float) -> torch.Tensor:
    """Factor of a gradient with this norm, in fp32: 1 where the norm is within the limit."""
    return torch.where(norm > limit, limit / norm.double(), 1.0).float()


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
