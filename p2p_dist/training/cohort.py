"""Train K runs on one frozen base in one process; one run is the case K = 1.

Every run keeps its own rows, order, dropout stream, clipping, schedule, checkpoints and end. Runs meet only in the
forward pass over the base, where they are rows of one batch; a run that ends or diverges leaves, and the others do not
notice.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch

from p2p_dist.modeling.base import Base
from p2p_dist.modeling.full_weights import FullWeights, Trainable
from p2p_dist.modeling.gradient_checkpointing import gradient_checkpointing
from p2p_dist.modeling.lengths import require_packed
from p2p_dist.modeling.packing import Batch, grouping, pack
from p2p_dist.modeling.tokenization import Encoded
from p2p_dist.modeling.transfer import sent
from p2p_dist.training.alignment import AlignedEngine
from p2p_dist.training.batches import micro_batches, spans_of
from p2p_dist.training.checkpoint import Counters, RunState
from p2p_dist.training.compiled import layers_compiled
from p2p_dist.training.engine import Engine, Execution, PlainEngine, layout, refuse_for_zero
from p2p_dist.training.lower_states import lower_states_of
from p2p_dist.training.objectives import loss_of
from p2p_dist.training.optimizer import learning_rate
from p2p_dist.training.pass_graphs import reason_against
from p2p_dist.training.passes import passes_of
from p2p_dist.training.train_run import Trained, TrainRun

ALONE = Execution()
_FILLER = Encoded("", [0], [0])
"""Row of a rank that has none when all ranks must make the pass; its loss is divided by infinity."""


class Stopped(Exception):
    """Training was asked to stop and has left its state with the observer."""


class Observer:
    """Callbacks of a cohort; the default of every method does nothing."""

    def line(self, run: int, line: dict[str, Any]) -> None:
        """After every step of a run."""

    def wants_state(self, run: int, step: int) -> bool:
        """True if the state after this step should be saved."""
        return False

    def keep(self, run: int, state: RunState) -> None:
        """Keep the state of a run."""

    def stop_requested(self) -> bool:
        """True if the cohort should stop at this step boundary."""
        return False


def train_cohort(
    base: Base,
    adapters: Trainable,
    runs: Sequence[TrainRun],
    observer: Observer | None = None,
    execution: Execution = ALONE,
) -> list[Trained]:
    """Train all runs to their ends. Raises Stopped when the observer of any rank asks for it, after handing every run's
    state to the observer. All ranks call it with the same runs."""
    return Cohort(base, adapters, runs, observer or Observer(), execution).run()


class Cohort:
    """The loop's state: counters of every run, the engine, the batches that are left."""

    def __init__(
        self, base: Base, adapters: Trainable, runs: Sequence[TrainRun], observer: Observer, execution: Execution
    ):
        self.base, self.adapters, self.runs = base, adapters, runs
        self.observer, self.execution = observer, execution
        self.device = base.device
        self.steps = [run.schedule.steps for run in runs]
        starts = [_start(run, adapters, execution.zero) for run in runs]
        self.passes = passes_of(base, runs, execution)
        self.engine = _engine(base, adapters, runs, self.steps, starts, execution)
        self.at = [
            _under(
                run.resume.counters if run.resume else Counters(0, 0, 0, 0.0, math.nan),
                layout(execution, base.device, run.spec),
            )
            for run in runs
        ]
        for k, run in enumerate(runs):
            if run.resume:
                self.engine.restore(k, run.resume.counters.step, run.resume.first_moment, run.resume.second_moment)
        self.lower = lower_states_of(base, runs, adapters, execution)
        self.without_graphs = reason_against(base, adapters, runs, self.lower is not None, execution.zero)
        if execution.cuda_graphs and not self.without_graphs:
            assert isinstance(self.engine, PlainEngine)
            self.engine.repeat_passes(execution.deterministic)
        self.picked: list[list[int]] = []
        self.batches: list[Iterator[list[int]]] = [
            run.schedule.batches(at.samples_seen) for run, at in zip(runs, self.at, strict=True)
        ]
        self.diverged = [""] * len(runs)
        self.started = time.perf_counter()

    def run(self) -> list[Trained]:
        """Every run to its end. Raises Stopped."""
        with (
            layers_compiled(self.base, self.adapters, self.runs, self.passes[0]),
            gradient_checkpointing(self.base.model, self.execution.gradient_checkpointing),
            nullcontext() if self.lower is None else self.lower.installed(),
        ):
            return self._steps()

    def _steps(self) -> list[Trained]:
        while self.step():
            if self.execution.ranks.any(self.observer.stop_requested()):
                self.keep_all()
                # All wait for the main rank's files: launchers soon kill who outlives another.
                self.execution.ranks.any(False)
                raise Stopped
        self.adapters.no_dropout()
        return self.ends()

    def step(self) -> bool:
        """One step of every run that is not at its end. False when none is left."""
        picked = [[] if self._ended(k) else next(self.batches[k], []) for k in range(len(self.runs))]
        if not any(picked):
            return False
        self.picked = picked
        chosen = [[run.rows[index] for index in rows] for run, rows in zip(self.runs, picked, strict=True)]
        losses = self._gradients(chosen)
        active = [k for k, rows in enumerate(chosen) if rows]
        norms = self.engine.update(active, [self.at[k].step for k in active], losses)
        # The one time in a step that the host waits for the device.
        read = torch.stack([*(losses[k] for k in active), *norms]).tolist()
        for k, loss, norm in zip(active, read[: len(active)], read[len(active) :], strict=True):
            self._finish_step(k, loss, norm, len(chosen[k]), sum(len(row.ids) for row in chosen[k]))
        return True

    def _ended(self, k: int) -> bool:
        return bool(self.diverged[k]) or self.at[k].step == self._last(k)

    def _last(self, k: int) -> int:
        return min([self.steps[k], *[stop for stop in [self.runs[k].stop_after_steps] if stop is not None]])

    def _gradients(self, chosen: list[list[Encoded]]) -> torch.Tensor:
        """Forward and backward over this step's rows of every run, in this rank's micro-batches. Returns the losses,
        [K]."""
        counts = sent(torch.tensor([max(1, sum(len(row.targets) for row in rows)) for rows in chosen]), self.device)
        losses = torch.zeros(len(chosen), device=self.device)
        ranks = self.execution.ranks
        shares = micro_batches([len(rows) for rows in chosen], ranks.rank, ranks.world, self.execution.micro_batch)
        self.engine.begin(len(shares))
        for runs in self.passes:
            losses[runs] = self._pass(runs, chosen[runs], counts[runs], [share[runs] for share in shares])
        return self.engine.finish(losses)

    def _pass(
        self, runs: slice, chosen: list[list[Encoded]], counts: torch.Tensor, shares: list[list[list[int]]]
    ) -> torch.Tensor:
        """The micro-batches of the runs that share their passes. Returns their losses, [k]."""
        streams = [
            run.stream(f"dropout:{at.step}", self.device)
            for run, at in zip(self.runs[runs], self.at[runs], strict=True)
        ]
        spans = [spans_of(rows) for rows in chosen]
        drawn = self.adapters.draw_dropout([rows[-1].stop if rows else 0 for rows in spans], streams)
        losses = torch.zeros_like(counts, dtype=torch.float32)
        for at, share in enumerate(shares):
            mine = [[rows[place] for place in places] for rows, places in zip(chosen, share, strict=True)]
            if any(mine) or self.engine.lockstep:
                columns = [
                    torch.tensor([token for place in places for token in span[place]], dtype=torch.long)
                    for span, places in zip(spans, share, strict=True)
                ]
                batch = pack(mine if any(mine) else [[_FILLER]], grouping(self.device))
                self.adapters.use_dropout(drawn, columns, batch.ids.shape[1])
                if len(shares) == 1:
                    drawn.clear()  # the selected masks are a copy
                batch = batch.to(self.device)
                with self._lower_states(runs, share, batch):
                    losses += self.engine.accumulate(
                        runs, batch, counts if any(mine) else counts * math.inf, at == len(shares) - 1
                    )
        self.adapters.no_dropout()
        return losses

    def _lower_states(self, runs: slice, share: Sequence[Sequence[int]], batch: Batch) -> AbstractContextManager[None]:
        """Kept states of a micro-batch below the adapters, given inside the block."""
        members = range(len(self.runs))[runs]
        rows = [(k, self.picked[k][place]) for k, places in zip(members, share, strict=True) for place in places]
        if self.lower is not None and len(self.runs) > 1:  # its check computes with the adapters of these runs
            self.adapters.select_runs(runs)
        return self.lower.given(rows, batch) if self.lower is not None and rows else nullcontext()

    def _finish_step(self, k: int, loss: float, norm: float, rows: int, tokens: int) -> None:
        before = self.at[k]
        if not math.isfinite(loss):
            norm = math.nan
        if not math.isfinite(norm):
            self.diverged[k] = (
                f"loss {loss}, gradient norm {norm} at step {before.step + 1}; the last finite loss was "
                f"{before.loss:.4f}"
            )
            return
        self.at[k] = replace(
            before,
            step=before.step + 1,
            samples_seen=before.samples_seen + rows,
            tokens=before.tokens + tokens,
            loss=loss,
        )
        rate = learning_rate(self.runs[k].spec, before.step, self.steps[k])
        measured = {
            "step": before.step + 1,
            "steps": self._last(k),
            "loss": loss,
            "grad_norm": norm,
            "learning_rate": rate,
        }
        self.observer.line(k, {**measured, "tokens": self.at[k].tokens, "seconds": round(self._seconds(k), 3)})
        if before.step + 1 < self._last(k) and self.observer.wants_state(k, before.step + 1):
            self._keep(k)

    def keep_all(self) -> None:
        """Hand the state of every run that is under way to the observer."""
        for k, counters in enumerate(self.at):
            if counters.step and not self.diverged[k]:
                self._keep(k)

    def ends(self) -> list[Trained]:
        """The outcome of every run."""
        values = [self.engine.values(k).cpu() for k in range(len(self.runs))]
        return [
            Trained(values[k], self._last(k), counters.tokens, counters.loss, self.diverged[k], counters.topologies)
            for k, counters in enumerate(self.at)
        ]

    def _keep(self, k: int) -> None:
        values, first, second = self.engine.state(k)
        counters = replace(self.at[k], seconds=self._seconds(k))
        self.observer.keep(k, RunState(counters, values, first, second))

    def _seconds(self, k: int) -> float:
        """Training time of a run, that before a resume included."""
        return self.at[k].seconds + time.perf_counter() - self.started


def _start(run: TrainRun, adapters: Trainable, zero: int) -> torch.Tensor:
    """The numbers that a run goes on from or begins with: [P], or [Q] where the adapter is generated; [0] for DeepSpeed
    to begin with the model's weights as they are."""
    if run.resume is not None:
        return run.resume.values
    if run.generator is not None:
        return run.generator.init_params(run.stream("init"))
    if run.start is None and zero and isinstance(adapters, FullWeights):
        return torch.empty(0)
    return adapters.init_params(run.stream("init")) if run.start is None else run.start


def _engine(
    base: Base,
    adapters: Trainable,
    runs: Sequence[TrainRun],
    steps: Sequence[int],
    starts: Sequence[torch.Tensor],
    execution: Execution,
) -> Engine:
    specs, objective, generator = [run.spec for run in runs], runs[0].objective, runs[0].generator
    if execution.zero == 3:
        require_packed(base.model, max(len(row.ids) for row in runs[0].rows), "ZeRO-3")
    if execution.zero == 0 and (rows := [run.aligned for run in runs if run.aligned]):
        assert not isinstance(adapters, FullWeights)  # refused when the study is planned
        return AlignedEngine(base, adapters, specs, steps, starts, execution.ranks, rows)
    if execution.zero == 0:
        return PlainEngine(base, adapters, specs, steps, starts, execution.ranks, loss_of(objective), generator)
    refuse_for_zero(
        objective is not None or runs[0].aligned is not None, generator is not None, specs[0].compile is not None
    )
    if isinstance(adapters, FullWeights):
        from p2p_dist.training.zero_full import ZeroFullEngine

        return ZeroFullEngine(base, adapters, specs[0], steps[0], starts[0], execution)
    from p2p_dist.training.zero import ZeroEngine

    return ZeroEngine(base, adapters, specs[0], steps[0], starts[0], execution)


def _under(counters: Counters, layout: str) -> Counters:
    """Note the layout that the run continues under, where it is not the one it had."""
    before = counters.topologies
    return counters if before[-1:] == (layout,) else replace(counters, topologies=(*before, layout))
