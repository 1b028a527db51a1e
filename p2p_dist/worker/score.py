"""The part of a worker that scores rows: load the model that a score stage names, run its method, write the table."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from p2p_dist.config.graph import Stage
from p2p_dist.config.study import TrainSpec
from p2p_dist.errors import Exit
from p2p_dist.modeling.base import usual_device
from p2p_dist.modeling.base_cache import BaseCache
from p2p_dist.modeling.lora import Adapters
from p2p_dist.results import atomic, datastore, scorestore
from p2p_dist.results.rundir import RunDir
from p2p_dist.scores import early, influence, labels, words
from p2p_dist.scores.context import Context, Method
from p2p_dist.training.adapter_io import load_adapter, read_adapter
from p2p_dist.training.base_model import base_of
from p2p_dist.training.cohort import Stopped
from p2p_dist.training.observer import StopFlag
from p2p_dist.worker.cost import Meter

METHODS: Mapping[str, Method] = {
    "labels": labels.score,
    "word_perplexity": words.score,
    "early_trust": early.score,
    "word_influence": influence.score,
}


def run_score_job(folder: RunDir, stages: Sequence[Stage], base_cache: BaseCache) -> int:
    """Score the rows of each stage. SIGTERM and SIGUSR1 end it at the next batch with exit code 75; nothing is kept."""
    stop = StopFlag()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing reads it
    try:
        for stage in stages:
            _score(folder, stage, stop, base_cache)
    except Stopped:
        return Exit.REQUEUE
    return Exit.OK


def _score(folder: RunDir, stage: Stage, stop: StopFlag, base_cache: BaseCache) -> None:
    target = folder.stage(stage)
    target.metrics.unlink(missing_ok=True)

    def tick(done: int, of: int) -> None:
        target.append_metrics({"rows": done, "of": of})
        if stop.requested:
            raise Stopped

    method = dict(stage.spec["method"])
    score = METHODS[method.pop("name")]
    meter = Meter(usual_device())
    context = _context(folder, stage, method, tick, base_cache)
    lines = score(context)
    context.base.check()
    atomic.write_json(target.cost, {**meter.read(context.base.dtype), "rows": len(lines)})
    scorestore.write(target, lines)


def _context(folder: RunDir, stage: Stage, options: Mapping[str, Any], tick: Any, base_cache: BaseCache) -> Context:
    """The tuned model, the model of its own, or the run's base with a fresh adapter to train, over the stage's rows."""
    tuned = folder.at("train", stage.reads["adapter"]) if "adapter" in stage.reads else None
    names = tuned.read_stage() if tuned else stage
    train = TrainSpec.model_validate(names.spec.get("train", {}))
    base = base_of(folder, names, base_cache)
    adapters = Adapters(base.model, train.lora, 1) if "train" in names.spec else None
    if tuned is not None and adapters is not None:
        load_adapter(tuned.adapter, adapters, 0)
    start = (
        read_adapter(folder.at("train", stage.reads["start"]).adapter, adapters)
        if adapters is not None and "start" in stage.reads
        else None
    )
    rows = datastore.read(folder.find(stage.reads["rows"]))
    return Context(base, adapters, train, names.spec.get("seed", 0), rows, options, tick, start)
