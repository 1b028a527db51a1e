"""Score stages of one job: load the model, run the method over the rows, write the table."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from p2p_dist.config.methods import Method
from p2p_dist.config.score_methods import (
    AnswerGradients,
    AnswerStates,
    CleanDistance,
    EarlyTrust,
    EmbeddingDrift,
    FreeAnswers,
    LabelScores,
    PromptInformation,
    ScoreMethod,
    TextRewrites,
    WordAttribution,
    WordInfluence,
    WordPerplexity,
    WordSubstitutions,
)
from p2p_dist.config.stages import ScoreStage
from p2p_dist.config.study import TrainSpec
from p2p_dist.data.built import Built
from p2p_dist.errors import Exit
from p2p_dist.modeling.base import usual_device
from p2p_dist.modeling.base_cache import BaseCache
from p2p_dist.modeling.lora import Adapters
from p2p_dist.modeling.surrogate_state import SurrogateFile
from p2p_dist.results import atomic, checksums, confined, datastore, scorestore
from p2p_dist.results.rundir import RunDir, StageDir
from p2p_dist.scores import (
    answers,
    attribution,
    clean_distance,
    early,
    embedding_drift,
    gradients,
    influence,
    labels,
    prompt_information,
    rewrites,
    states,
    words,
)
from p2p_dist.scores.context import Context, Line, OnProgress
from p2p_dist.training.adapter_io import load_adapter, read_adapter
from p2p_dist.training.base_model import base_of, cached_base
from p2p_dist.training.cohort import Stopped
from p2p_dist.training.observer import StopFlag
from p2p_dist.training.reproducible import set_deterministic
from p2p_dist.worker import word_substitution
from p2p_dist.worker.cost import Meter


def run_score_job(
    folder: RunDir, stages: Sequence[ScoreStage], base_cache: BaseCache, deterministic: bool = True
) -> int:
    """Score the rows of each stage and return an exit code.

    SIGTERM and SIGUSR1 end the job at the next batch with exit code 75; a stage that is not finished keeps its
    rewrites or its surrogate, and nothing else.
    """
    stop = StopFlag()
    set_deterministic(deterministic)
    try:
        for stage in stages:
            score(folder, stage, stop, base_cache)
    except Stopped:
        return Exit.REQUEUE
    return Exit.OK


def score(folder: RunDir, stage: ScoreStage, stop: StopFlag, base_cache: BaseCache) -> None:
    """Score the rows of one stage. Raises Stopped on request, and UserError."""
    target = folder.at("score", stage.id)
    meter = Meter(usual_device())
    on_progress, surrogate = _progress(target, stop), SurrogateFile(target.path / "surrogate.safetensors")
    # 1. Load the model, read the rows and run the method.
    if isinstance(stage.method, WordSubstitutions):
        rows = datastore.read(folder.find(stage.reads.rows))
        lines, dtype = word_substitution.score(stage, stage.method, rows, surrogate, on_progress), torch.float32
    else:
        context = _context(folder, stage, on_progress, base_cache)
        lines, dtype = run_method(context, stage.method), context.base.dtype
        context.base.check()
    # 2. Record the cost, then publish the scores.
    atomic.write_json(target.cost, {**meter.read(dtype), "rows": len(lines)})
    scorestore.write(target, lines)
    scorestore.Unfinished.of(target).remove()
    surrogate.remove()


_METHODS: Mapping[type[Method], Callable[[Context, Any], list[Line]]] = {
    AnswerGradients: gradients.score,
    AnswerStates: states.score,
    CleanDistance: clean_distance.score,
    EarlyTrust: early.score,
    EmbeddingDrift: embedding_drift.score,
    FreeAnswers: answers.score,
    LabelScores: labels.score,
    PromptInformation: prompt_information.score,
    TextRewrites: rewrites.score,
    WordAttribution: attribution.score,
    WordInfluence: influence.score,
    WordPerplexity: words.score,
}
"""The scoring of every method that is given its model."""


def run_method(context: Context, method: ScoreMethod) -> list[Line]:
    """Lines of scores by a method of `p2p_dist.scores`."""
    return _METHODS[type(method)](context, method)


def _progress(target: StageDir, stop: StopFlag) -> OnProgress:
    """A callback that appends to the stage's metrics and raises Stopped on request. Earlier metrics are deleted."""
    confined.remove(target.metrics)

    def on_progress(done: int, total: int) -> None:
        target.append_metrics({"rows": done, "of": total})
        if stop.requested:
            raise Stopped

    return on_progress


def _context(folder: RunDir, stage: ScoreStage, on_progress: OnProgress, base_cache: BaseCache) -> Context:
    rows = datastore.read(folder.find(stage.reads.rows))
    if stage.reads.adapter is not None:
        return _tuned(folder, stage.reads.adapter, rows, on_progress, base_cache)
    assert stage.model is not None
    train = stage.train or TrainSpec()
    base = cached_base(base_cache, stage.model, stage.local.model, train)
    if stage.train is None:
        unfinished = scorestore.Unfinished.of(folder.at("score", stage.id))
        return Context(base, None, train, 0, rows, on_progress, unfinished=unfinished)
    adapters = Adapters(base.model, train.lora, 1)
    start = None
    if stage.reads.start is not None:
        start = read_adapter(checksums.adapter(folder.at("train", stage.reads.start)), adapters)
    return Context(base, adapters, train, stage.seed or 0, rows, on_progress, start)


def _tuned(folder: RunDir, adapter: str, rows: Built, on_progress: OnProgress, base_cache: BaseCache) -> Context:
    """The adapter of a training on its base."""
    trained = folder.train_stage(adapter)
    base = base_of(folder, trained, base_cache)
    adapters = Adapters(base.model, trained.train.lora, 1)
    load_adapter(checksums.adapter(folder.at("train", adapter)), adapters, 0)
    return Context(base, adapters, trained.train, trained.seed, rows, on_progress)
