"""A base that answers test suites with one adapter after the other, on all ranks."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from p2p_dist.config.study import TrainSpec
from p2p_dist.data.built import Suite
from p2p_dist.evaluation.scoring_mode import Line, ScoringMode
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.full_weights import FullWeights, Trainable
from p2p_dist.results import checksums, confined
from p2p_dist.results.rundir import StageDir
from p2p_dist.training.adapter_io import read_adapter
from p2p_dist.training.cohort import Stopped
from p2p_dist.training.engine import Engine, Execution
from p2p_dist.training.full_io import read_model
from p2p_dist.training.gpu_use import GpuUse
from p2p_dist.training.observer import StopFlag
from p2p_dist.training.ranks import Ranks


@dataclass(frozen=True)
class Evaluator:
    """A base with room for one adapter, or a model whose weights are all trained."""

    base: Base
    adapters: Trainable
    use: Callable[[torch.Tensor], None]
    """Load these numbers, [P], as the adapter or the weights."""
    ranks: Ranks
    lockstep: bool
    """Every rank holds a part of the base and answers all rows; otherwise each rank answers its share."""

    def read(self, source: StageDir) -> torch.Tensor:
        """Numbers of a saved adapter, [P] in fp32, on the device of every rank; of a model trained in all weights, [P]
        in its precision on the main rank's host, and none on others."""
        if isinstance(self.adapters, FullWeights):
            if not self.ranks.main:
                return torch.empty(0)
            return read_model(checksums.adapter(source), self.adapters, self.base.dtype)
        on_disk = torch.empty(self.adapters.size)
        if self.ranks.main:
            on_disk = read_adapter(checksums.adapter(source), self.adapters)
        return self.ranks.from_main(on_disk.to(self.base.device))


def evaluator_of(
    base: Base, adapters: Trainable, engine: Engine | None, train: TrainSpec, execution: Execution
) -> Evaluator:
    """The base as a training left it, or as it was loaded where there was none (`engine` None)."""
    if isinstance(adapters, FullWeights):
        return _of_weights(base, adapters, engine, train, execution)
    if execution.zero == 3:
        from p2p_dist.training.zero import ZeroEngine

        sharded = (
            engine
            if isinstance(engine, ZeroEngine)
            else ZeroEngine(base, adapters, train, 1, torch.zeros(adapters.size), execution)
        )
        return Evaluator(sharded.for_evaluation(), adapters, sharded.load, execution.ranks, True)
    adapters.select_runs(slice(0, 1))
    return Evaluator(base, adapters, lambda values: adapters.load(0, values), execution.ranks, False)


def _of_weights(
    base: Base, weights: FullWeights, engine: Engine | None, train: TrainSpec, execution: Execution
) -> Evaluator:
    """The model as a training in all weights left it, or as it was loaded."""
    ranks = execution.ranks
    if execution.zero == 3:
        from p2p_dist.training.zero_full import NOTHING, ZeroFullEngine

        sharded = (
            engine
            if isinstance(engine, ZeroFullEngine)
            else ZeroFullEngine(base, weights, train, 1, NOTHING, execution)
        )
        return Evaluator(sharded.for_evaluation(), weights, sharded.load, ranks, True)

    def use(values: torch.Tensor) -> None:
        with torch.no_grad():
            for view, weight in weights.weights():
                if ranks.main:
                    weight.copy_(values[view.start : view.stop].view(view.shape))
                ranks.from_main(weight.detach())

    return Evaluator(base, weights, use, ranks, False)


class Progress:
    """Metrics after every batch, and a check of the stop flag."""

    def __init__(self, target: StageDir, total: int, evaluator: Evaluator, stop: StopFlag):
        self.target, self.total, self.evaluator, self.stop = target, total, evaluator, stop
        self.finished = 0
        """Rows of the suites that are finished."""
        self.gpu = GpuUse.of(evaluator.base.device)
        if evaluator.ranks.main:
            confined.remove(target.metrics)

    def on_batch(self, scored: int) -> None:
        """Called with the rows of the current suite that this rank has scored."""
        ranks, lockstep = self.evaluator.ranks, self.evaluator.lockstep
        if ranks.main:
            rows = self.finished + (scored if lockstep else min(scored * ranks.world, self.total))
            self.target.append_metrics({"rows": rows, "of": self.total, **self.gpu.to_dict()})
        if ranks.any(self.stop.requested) if lockstep else self.stop.requested:
            raise _Interrupted


class _Interrupted(Exception):
    """This rank was asked to stop while it scored its share."""


def answer_suite(evaluator: Evaluator, mode: ScoringMode[Line], suite: Suite, progress: Progress) -> list[Line]:
    """One line per row, in the order of the rows, on every rank. Raises Stopped when any rank was asked to stop.

    Rank r of n answers rows r, r + n, r + 2n, ..., unless all ranks move in lockstep.
    """
    ranks = evaluator.ranks
    share = suite if evaluator.lockstep else replace(suite, rows=suite.rows[ranks.rank :: ranks.world])
    lines: list[Line] = []
    interrupted = False
    try:
        lines = mode.answers(evaluator.base, share, progress.on_batch)
    except _Interrupted:
        interrupted = True
    if ranks.any(interrupted):
        raise Stopped
    progress.finished += len(suite.rows)
    if evaluator.lockstep or ranks.world == 1:
        return lines
    shares = ranks.gather_json([line.to_json() for line in lines])
    ordered = (shares[index % ranks.world][index // ranks.world] for index in range(len(suite.rows)))
    return [mode.line(line) for line in ordered]
