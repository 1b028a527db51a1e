"""Train K runs on one frozen base in one process; one run is the case K = 1.

Every run keeps its own rows, order, dropout stream, clipping, schedule and end. Runs meet only in the forward pass over
the base, where they are rows of one batch; a run that ends or diverges leaves, and the others do not notice.
"""

import hashlib
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from p2p_dist.modeling.base import Base
from p2p_dist.modeling.encode import Encoded
from p2p_dist.modeling.forward import answer_logits
from p2p_dist.modeling.lora import Adapters
from p2p_dist.modeling.packing import Batch, pack
from p2p_dist.spec.study import TrainSpec
from p2p_dist.training.batches import Schedule
from p2p_dist.training.optimizer import CohortOptimizer, learning_rate

Report = Callable[[int, dict[str, Any]], None]


class Diverged(RuntimeError):
    """The loss of a run is NaN or infinite."""


@dataclass(frozen=True)
class TrainRun:
    """One member of a cohort: what it trains on and how."""

    spec: TrainSpec
    seed: int
    rows: Sequence[Encoded]

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.seed, len(self.rows), self.spec.num_train_epochs, self.spec.global_batch)

    def stream(self, purpose: str) -> torch.Generator:
        """A named stream of random numbers of this run."""
        number = hashlib.sha256(f"{self.seed}:{purpose}".encode()).digest()[:8]
        return torch.Generator().manual_seed(int.from_bytes(number, "little", signed=True))


@dataclass(frozen=True)
class Trained:
    """The end of one run: its numbers [P] in fp32, or why there are none."""

    values: torch.Tensor
    steps: int
    tokens: int
    loss: float
    diverged: str = ""


def train_cohort(base: Base, adapters: Adapters, runs: Sequence[TrainRun], report: Report = lambda run, line: None) -> list[Trained]:
    """Train all runs to their ends. `report(run, line)` is called after every step of every run."""
    schedules = [run.schedule for run in runs]
    starts = [adapters.initial(run.stream("init")) for run in runs]
    optimizer = CohortOptimizer(adapters, [run.spec for run in runs], [s.steps for s in schedules], starts)
    batches = [schedule.batches() for schedule in schedules]
    tokens, losses, diverged = [0] * len(runs), [float("nan")] * len(runs), [""] * len(runs)
    started = time.perf_counter()
    for step in range(max(schedule.steps for schedule in schedules)):
        picked = [[] if diverged[k] else next(batches[k], []) for k in range(len(runs))]
        active = [k for k, rows in enumerate(picked) if rows]
        if not active:
            break
        batch = pack([[runs[k].rows[at] for at in picked[k]] for k in range(len(runs))])
        adapters.draw_dropout(batch.ids.shape[1], batch.tokens, [run.stream(f"dropout:{step}") for run in runs])
        found = _losses_and_gradients(base, adapters, batch, len(runs))
        for k in active:
            loss = float(found[k])
            norm = optimizer.step(k, step) if math.isfinite(loss) else math.nan
            if not math.isfinite(norm):
                diverged[k] = f"loss {loss}, gradient norm {norm} at step {step + 1}; the last finite loss was {losses[k]:.4f}"
                continue
            losses[k] = loss
            tokens[k] += batch.tokens[k]
            rate = learning_rate(runs[k].spec, step, schedules[k].steps)
            line = {"step": step + 1, "steps": schedules[k].steps, "loss": losses[k], "grad_norm": norm, "learning_rate": rate}
            report(k, {**line, "tokens": tokens[k], "seconds": round(time.perf_counter() - started, 3)})
    adapters.no_dropout()
    return [Trained(optimizer.masters[k].detach().cpu(), schedules[k].steps, tokens[k], losses[k], diverged[k]) for k in range(len(runs))]


def _losses_and_gradients(base: Base, adapters: Adapters, batch: Batch, runs: int) -> torch.Tensor:
    """Mean loss over the label tokens of each run, [K]; gradients are left in `adapters.grads`."""
    on_device = batch.to(base.device)
    adapters.grads.zero_()
    logits = answer_logits(base.model, on_device.ids, on_device.positions, on_device.packed, on_device.answers)
    each = cross_entropy(logits, on_device.targets, reduction="none")
    sums = torch.zeros(runs, device=base.device).index_add(0, on_device.owner, each)
    counts = torch.bincount(on_device.owner, minlength=runs).clamp(min=1)
    means = sums / counts
    with warnings.catch_warnings():
        # Gradients of K > 1 runs are strided views into one buffer, on purpose.
        warnings.filterwarnings("ignore", message="grad and param do not obey the gradient layout contract")
        means.sum().backward()
    return means.detach()
