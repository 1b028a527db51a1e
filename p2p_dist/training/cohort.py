"""Train K runs on one frozen base in one process; one run is the case K = 1.

Every run keeps its own rows, order, dropout stream, clipping, schedule, checkpoints and end. Runs meet only in the forward
pass over the base, where they are rows of one batch; a run that ends or diverges leaves, and the others do not notice.
"""

import hashlib
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
from p2p_dist.training.checkpoint import Counters, RunState
from p2p_dist.training.optimizer import CohortOptimizer, learning_rate


class Stopped(Exception):
    """Training was asked to stop and has left its state with the observer."""


class Observer:
    """What a cohort tells its surroundings; every method may be left as it is."""

    def line(self, run: int, line: dict[str, Any]) -> None:
        """After every step of a run."""

    def wants_state(self, run: int, step: int) -> bool:
        """Whether the state after this step is to be kept."""
        return False

    def keep(self, run: int, state: RunState) -> None:
        """Keep the state of a run."""

    def stop_requested(self) -> bool:
        """Whether to stop at this step boundary."""
        return False


@dataclass(frozen=True)
class TrainRun:
    """One member of a cohort: what it trains on, how, and where it goes on from."""

    spec: TrainSpec
    seed: int
    rows: Sequence[Encoded]
    resume: RunState | None = None
    start: torch.Tensor | None = None
    """Numbers [P] to begin with in place of fresh ones."""
    stop_after_steps: int | None = None
    """End here, on the schedule of the whole training."""

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


def train_cohort(base: Base, adapters: Adapters, runs: Sequence[TrainRun], observer: Observer | None = None) -> list[Trained]:
    """Train all runs to their ends. Raises Stopped when the observer asks for it, after handing it every run's state."""
    cohort = _Cohort(base, adapters, runs, observer or Observer())
    while cohort.step():
        if cohort.observer.stop_requested():
            cohort.keep_all()
            raise Stopped
    adapters.no_dropout()
    return cohort.ends()


class _Cohort:
    """The loop's state: counters of every run, the optimiser, the batches that are left."""

    def __init__(self, base: Base, adapters: Adapters, runs: Sequence[TrainRun], observer: Observer):
        self.base, self.adapters, self.runs, self.observer = base, adapters, runs, observer
        self.steps = [run.schedule.steps for run in runs]
        starts = [_start(run, adapters) for run in runs]
        self.optimizer = CohortOptimizer(adapters, [run.spec for run in runs], self.steps, starts)
        self.at = [run.resume.counters if run.resume else Counters(0, 0, 0, 0.0, math.nan) for run in runs]
        for k, run in enumerate(runs):
            if run.resume:
                self.optimizer.restore(k, run.resume.counters.step, run.resume.first_moment, run.resume.second_moment)
        self.batches: list[Iterator[list[int]]] = [run.schedule.batches(at.samples_seen) for run, at in zip(runs, self.at, strict=True)]
        self.diverged = [""] * len(runs)
        self.started = time.perf_counter()

    def step(self) -> bool:
        """One step of every run that is not at its end. False when none is left."""
        picked = [[] if self._ended(k) else next(self.batches[k], []) for k in range(len(self.runs))]
        if not any(picked):
            return False
        batch = pack([[run.rows[at] for at in rows] for run, rows in zip(self.runs, picked, strict=True)])
        streams = [run.stream(f"dropout:{at.step}") for run, at in zip(self.runs, self.at, strict=True)]
        self.adapters.draw_dropout(batch.ids.shape[1], batch.tokens, streams)
        losses = _losses_and_gradients(self.base, self.adapters, batch, len(self.runs)).tolist()
        for k, rows in enumerate(picked):
            if rows:
                self._finish_step(k, losses[k], len(rows), batch.tokens[k])
        return True

    def _ended(self, k: int) -> bool:
        return bool(self.diverged[k]) or self.at[k].step == self._last(k)

    def _last(self, k: int) -> int:
        return min(self.steps[k], self.runs[k].stop_after_steps or self.steps[k])

    def _finish_step(self, k: int, loss: float, rows: int, tokens: int) -> None:
        before = self.at[k]
        norm = self.optimizer.step(k, before.step) if math.isfinite(loss) else math.nan
        if not math.isfinite(norm):
            self.diverged[k] = f"loss {loss}, gradient norm {norm} at step {before.step + 1}; the last finite loss was {before.loss:.4f}"
            return
        self.at[k] = Counters(before.step + 1, before.samples_seen + rows, before.tokens + tokens, before.seconds, loss)
        rate = learning_rate(self.runs[k].spec, before.step, self.steps[k])
        facts = {"step": before.step + 1, "steps": self._last(k), "loss": loss, "grad_norm": norm, "learning_rate": rate}
        self.observer.line(k, {**facts, "tokens": self.at[k].tokens, "seconds": round(self._seconds(k), 3)})
        if before.step + 1 < self._last(k) and self.observer.wants_state(k, before.step + 1):
            self._keep(k)

    def keep_all(self) -> None:
        """Hand the state of every run that is under way to the observer."""
        for k, at in enumerate(self.at):
            if at.step and not self.diverged[k]:
                self._keep(k)

    def ends(self) -> list[Trained]:
        """How every run ended."""
        masters = self.optimizer.masters
        return [Trained(masters[k].detach().cpu(), self._last(k), at.tokens, at.loss, self.diverged[k]) for k, at in enumerate(self.at)]

    def _keep(self, k: int) -> None:
        first, second = self.optimizer.moments(k)
        counters = replace(self.at[k], seconds=self._seconds(k))
        self.observer.keep(k, RunState(counters, self.optimizer.masters[k].detach(), first, second))

    def _seconds(self, k: int) -> float:
        """Training time of a run, that before a resume included."""
        return self.at[k].seconds + time.perf_counter() - self.started


def _start(run: TrainRun, adapters: Adapters) -> torch.Tensor:
    """The numbers [P] that a run goes on from or begins with."""
    if run.resume is not None:
        return run.resume.values
    return adapters.initial(run.stream("init")) if run.start is None else run.start


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
