"""Carry out the train stages of one job: rows to tokens, train the cohort, keep every adapter that came to its end."""

import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from p2p_dist.config.graph import Stage
from p2p_dist.config.study import TrainSpec
from p2p_dist.modeling import trigger_truncation
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.gradient_checkpointing import recomputed
from p2p_dist.modeling.lora import Adapters
from p2p_dist.modeling.tokenization import Encoder
from p2p_dist.results import atomic, datastore
from p2p_dist.results.rundir import RunDir, StageDir
from p2p_dist.training import checkpoint
from p2p_dist.training.adapter_io import read_adapter, save_adapter
from p2p_dist.training.cohort import Cohort
from p2p_dist.training.engine import Engine, Execution
from p2p_dist.training.gpu_use import GpuUse
from p2p_dist.training.observer import FolderObserver, StopFlag
from p2p_dist.training.reparametrization import generator_of
from p2p_dist.training.teacher import taught
from p2p_dist.training.train_run import Trained, TrainRun
from p2p_dist.worker.cost import Meter


@dataclass(frozen=True)
class Checkpoints:
    """When states are kept, and which may be gone on from."""

    every: int
    allow_change: tuple[str, ...]
    stop: StopFlag


def train(
    folder: RunDir,
    base: Base,
    adapters: Adapters,
    stages: Sequence[Stage],
    execution: Execution,
    checkpoints: Checkpoints,
) -> tuple[set[str], Engine]:
    """Train a cohort and save its adapters. Returns the ids of runs that diverged, and the engine as it was left."""
    meter = Meter(base.device, execution.ranks)
    targets = [folder.stage(stage) for stage in stages]
    marks = [_fingerprint(base, stage) for stage in stages]
    observer = FolderObserver(
        targets,
        marks,
        checkpoints.every,
        checkpoints.stop,
        execution.ranks,
        checkpoints.allow_change,
        GpuUse.of(base.device),
    )
    runs, texts = [], list[dict[str, Any]]()
    for k, stage in enumerate(stages):
        spec = TrainSpec.model_validate(stage.spec["train"])
        built = datastore.read(folder.at("data", stage.reads["rows"]))
        encode = Encoder.of(base.tokenizer, built, spec.max_length)
        encoded, cut = encode.rows(built.train)
        if "teacher" in stage.reads:
            encoded = taught(base, adapters, k, _adapter(folder, stage, "teacher", adapters), encoded)
        generator = generator_of(stage.spec.get("reparametrized"), adapters)
        trained = generator.size if generator else adapters.size
        resume = observer.resume(k, trained, base.device)
        start = _adapter(folder, stage, "start", adapters) if "start" in stage.reads else None
        stop, objective = stage.spec.get("stop_after_steps"), stage.spec.get("objective")
        runs.append(TrainRun(spec, stage.spec["seed"], encoded, resume, start, stop, objective, generator))
        texts.append({"cut_texts": cut, "triggers_whole": trigger_truncation.of_poisoned(encode, built)})
        if execution.ranks.main:
            checkpoint.require_space(targets[k].checkpoints, trained)
    cohort = Cohort(base, adapters, runs, observer, execution)
    with recomputed(base.model, execution.recompute):
        found = cohort.run()
    cohort.engine.close()
    cost = meter.read(base.dtype, earlier=max(run.resume.counters.seconds if run.resume else 0.0 for run in runs))
    if execution.ranks.main:
        base.check()
        for k, (stage, target, end) in enumerate(zip(stages, targets, found, strict=True)):
            counts = {
                "cohort": len(stages),
                **texts[k],
                "rows": len(runs[k].rows),
                "steps": end.steps,
                "tokens": end.tokens,
            }
            history = {"topologies": end.topologies, "allowed_changes": observer.changes[k]}
            loss = end.loss if math.isfinite(end.loss) else None
            atomic.write_json(target.cost, {**cost, **counts, **history, "final_loss": loss})
            _keep(stage, target, adapters, end)
    return {stage.id for stage, end in zip(stages, found, strict=True) if end.diverged}, cohort.engine


def _keep(stage: Stage, target: StageDir, adapters: Adapters, trained: Trained) -> None:
    """Save an adapter, or say why there is none."""
    if trained.diverged:
        print(
            f"error[E401]: run {stage.id} diverged: {trained.diverged}. Try: a lower train.learning_rate",
            file=sys.stderr,
        )
        return
    if not target.adapter.exists():
        with atomic.new_folder(target.adapter) as half:
            save_adapter(
                half, adapters, trained.values, str(stage.spec["model"].get("ref", stage.spec["model"]["source"]))
            )
    shutil.rmtree(target.checkpoints, ignore_errors=True)


def _adapter(folder: RunDir, stage: Stage, role: str, adapters: Adapters) -> torch.Tensor:
    """The numbers of an adapter that a training reads."""
    return read_adapter(folder.at("train", stage.reads[role]).adapter, adapters)


def _fingerprint(base: Base, stage: Stage) -> dict[str, Any]:
    """What must be the same for a checkpoint to be gone on from; the stage's id covers config, rows, base and seed."""
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"stage": stage.id, "dtype": str(base.dtype), "device": base.device.type, **versions}
