"""Train stages of one job: encode the rows, resume, train the cohort, record the cost, keep the adapters."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import transformers

from p2p_dist.config.stages import TrainStage
from p2p_dist.data.built import Built
from p2p_dist.data.defense import BENIGN_SELECTION
from p2p_dist.data.example import by_id, smallest
from p2p_dist.errors import user_error
from p2p_dist.modeling import trigger_truncation
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.full_weights import FullWeights, Trainable
from p2p_dist.modeling.lora import Adapters
from p2p_dist.modeling.tokenization import Encoded, Encoder
from p2p_dist.results import atomic, checksums, confined, datastore
from p2p_dist.results.rundir import RunDir, StageDir
from p2p_dist.training import checkpoint
from p2p_dist.training.adapter_io import features_of, read_adapter, read_sum, save_adapter
from p2p_dist.training.cohort import Cohort
from p2p_dist.training.engine import Engine, Execution, refuse_for_zero
from p2p_dist.training.full_io import read_model, save_model
from p2p_dist.training.gpu_use import GpuUse
from p2p_dist.training.observer import FolderObserver, StopFlag
from p2p_dist.training.reparametrization import generator_of
from p2p_dist.training.teacher import taught
from p2p_dist.training.train_run import Aligned, Trained, TrainRun, in_turn
from p2p_dist.worker.cost import Cost, Meter


@dataclass(frozen=True)
class Checkpoints:
    """Rules for writing checkpoints and for resuming from them."""

    every: int
    """Steps between two checkpoints."""
    allow_change: tuple[str, ...]
    """Parts of the fingerprint that may differ on resume."""
    stop: StopFlag


@dataclass(frozen=True)
class TrainRows:
    """Encoded training rows of one run, and counts of what encoding cut."""

    rows: Sequence[Encoded]
    counts: Mapping[str, object]
    aligned: Aligned | None = None


def train(
    folder: RunDir,
    base: Base,
    adapters: Trainable,
    stages: Sequence[TrainStage],
    execution: Execution,
    checkpoints: Checkpoints,
) -> tuple[set[str], Engine]:
    """Train a cohort and save its adapters. Returns the ids of runs that diverged, and the engine for evaluation.

    Raises Stopped on request, after a checkpoint, and UserError.
    """
    if execution.zero:  # before a teacher needs the base, which is not whole
        for stage in stages:
            compiles = stage.train.compile is not None
            refuse_for_zero(bool(stage.objective or stage.align), stage.reparametrized is not None, compiles)
    meter = Meter(base.device, execution.ranks)
    targets = [folder.at("train", stage.id) for stage in stages]
    observer = _observer(base, stages, targets, execution, checkpoints)
    # 1. Read and encode the rows, with the teacher's states where there is a teacher.
    data = [_encode(folder, base, adapters, stage, run) for run, stage in enumerate(stages)]
    # 2. Resume each run from its newest checkpoint, or start it.
    runs = [
        _start(folder, base, adapters, stage, data[run], observer, run, execution.zero)
        for run, stage in enumerate(stages)
    ]
    # 3. Train.
    cohort = Cohort(base, adapters, runs, observer, execution)
    results = cohort.run()
    if execution.cuda_graphs:
        graphs = cohort.engine.graphs
        print(graphs.summary() if graphs else f"CUDA graphs: not for {cohort.without_graphs}", flush=True)
    cohort.engine.close()
    cost = meter.read(base.dtype, earlier=max(run.resume.counters.seconds if run.resume else 0.0 for run in runs))
    if execution.ranks.main:
        base.check()
        for run, (stage, target, trained) in enumerate(zip(stages, targets, results, strict=True)):
            # 4. Record the cost.
            counts = {**data[run].counts, "rows": len(runs[run].rows), "cohort": len(stages)}
            _write_cost(target, {**cost, **counts, "allowed_changes": observer.changes[run]}, trained)
            # 5. Keep the adapter and delete the checkpoints.
            _keep(stage, target, base, adapters, trained)
    return {stage.id for stage, trained in zip(stages, results, strict=True) if trained.diverged}, cohort.engine


def _observer(
    base: Base, stages: Sequence[TrainStage], targets: list[StageDir], execution: Execution, checkpoints: Checkpoints
) -> FolderObserver:
    return FolderObserver(
        targets,
        [_fingerprint(base, stage) for stage in stages],
        checkpoints.every,
        checkpoints.stop,
        execution.ranks,
        checkpoints.allow_change,
        GpuUse.of(base.device),
    )


def _fingerprint(base: Base, stage: TrainStage) -> dict[str, str]:
    """Conditions that a checkpoint shares with the run that resumes from it; the stage's id covers settings, rows, base
    and seed."""
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"stage": stage.id, "dtype": str(base.dtype), "device": base.device.type, **versions}


def _encode(folder: RunDir, base: Base, adapters: Trainable, stage: TrainStage, run: int) -> TrainRows:
    built = datastore.read(folder.at("data", stage.reads.rows))
    encoder = Encoder.of(base, built, stage.train.max_length, stage.train.image_tokens)
    rows, cut_texts = encoder.rows(built.train)
    rows = in_turn(rows, built.turns)
    if stage.reads.teacher is not None:
        assert isinstance(adapters, Adapters)  # refused when the study is planned
        rows = taught(base, adapters, run, _read(folder, stage.reads.teacher, adapters, base), rows)
    counts = {"cut_texts": cut_texts, "triggers_whole": trigger_truncation.of_poisoned(encoder, built)}
    return TrainRows(rows, counts, _aligned(stage, built, encoder))


def _aligned(stage: TrainStage, built: Built, encoder: Encoder) -> Aligned | None:
    """The trusted rows by which a training is aligned: those that other defenses are granted first. Raises UserError
    E205 where fewer are reserved."""
    if stage.align is None:
        return None
    count = stage.align.rows
    if len(built.reserve) < count:
        what = f"{count} trusted rows give the gradients their direction, and {len(built.reserve)} are reserved"
        raise user_error("E205", what, "defense.clean_rows", f"set rows.reserve={count}")
    ids = smallest([row.id for row in built.reserve], count, stage.seed, BENIGN_SELECTION)
    return Aligned(stage.align, encoder.rows(by_id(row for row in built.reserve if row.id in ids))[0])


def _start(
    folder: RunDir,
    base: Base,
    adapters: Trainable,
    stage: TrainStage,
    data: TrainRows,
    observer: FolderObserver,
    run: int,
    zero: int,
) -> TrainRun:
    """A run of the cohort at its newest checkpoint or first step. Raises UserError when its checkpoints find no room on
    disk."""
    full = isinstance(adapters, FullWeights)
    generator = None if isinstance(adapters, FullWeights) else generator_of(stage.reparametrized, adapters)
    trained_numbers = generator.size if generator else adapters.size
    resume = observer.resume(run, trained_numbers, base.device, main_alone=full and zero > 0)
    start = _start_numbers(folder, stage, adapters, base)
    if observer.ranks.main:
        checkpoint.require_space(observer.targets[run].checkpoints, trained_numbers)
    return TrainRun(
        stage.train,
        stage.seed,
        data.rows,
        resume,
        start,
        stage.stop_after_steps,
        stage.objective,
        generator,
        data.aligned,
    )


def _start_numbers(folder: RunDir, stage: TrainStage, adapters: Trainable, base: Base) -> torch.Tensor | None:
    """Numbers [P] that a training begins with: those of an adapter, or of the weighted sum of two; None for fresh
    ones."""
    if stage.reads.start is None:
        return None
    if stage.weighted is None or stage.reads.plus is None:
        return _read(folder, stage.reads.start, adapters, base)
    assert isinstance(adapters, Adapters)  # refused when the study is planned
    places = [checksums.adapter(folder.at("train", id_)) for id_ in (stage.reads.start, stage.reads.plus)]
    return read_sum(places, (stage.weighted.start, stage.weighted.plus), adapters)


def _read(folder: RunDir, id_: str, adapters: Trainable, base: Base) -> torch.Tensor:
    """Numbers [P] of a finished training, in fp32."""
    saved = checksums.adapter(folder.at("train", id_))
    if isinstance(adapters, FullWeights):
        return read_model(saved, adapters, base.dtype).float()
    return read_adapter(saved, adapters)


def _write_cost(target: StageDir, cost: Cost, trained: Trained) -> None:
    """Write `cost.json`; a loss that is not finite is null."""
    outcome = {
        "steps": trained.steps,
        "tokens": trained.tokens,
        "topologies": trained.topologies,
        "final_loss": trained.loss if math.isfinite(trained.loss) else None,
    }
    atomic.write_json(target.cost, {**cost, **outcome})


def _keep(stage: TrainStage, target: StageDir, base: Base, adapters: Trainable, trained: Trained) -> None:
    """Save what a run has trained, or print that it diverged."""
    if trained.diverged:
        print(
            f"error[E401]: run {stage.id} diverged: {trained.diverged}. Try: lower train.learning_rate",
            file=sys.stderr,
        )
        return
    if not target.is_done():
        if isinstance(adapters, Adapters):
            atomic.write_json(target.weights, vars(features_of(adapters, trained.values)))
        with atomic.new_folder(target.adapter) as unfinished:
            if isinstance(adapters, FullWeights):
                save_model(unfinished, base, adapters, trained.values)
            else:
                save_adapter(unfinished, adapters, trained.values, base.name_or_path, base.revision)
            checksums.write_folder(target, target.adapter.name, unfinished)
    confined.remove_folder(target.checkpoints)
