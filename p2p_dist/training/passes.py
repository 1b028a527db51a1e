"""Runs of a cohort that share a forward pass, on a loaded base; `planning.passes` decides."""

import math
from collections.abc import Sequence

from p2p_dist.modeling.base import Base
from p2p_dist.modeling.body import depth_of
from p2p_dist.modeling.lengths import takes_rows_apart
from p2p_dist.modeling.lora import features_of
from p2p_dist.modeling.lora_targets import linear_layers
from p2p_dist.planning.passes import Device, apart
from p2p_dist.training.engine import Execution
from p2p_dist.training.train_run import TrainRun


def passes_of(base: Base, runs: Sequence[TrainRun], execution: Execution) -> list[slice]:
    """Runs per forward pass: all together, or each alone where computing takes longer than issuing."""
    if len(runs) > 1 and takes_rows_apart(base.model, max(len(row.ids) for run in runs for row in run.rows)):
        return [slice(k, k + 1) for k in range(len(runs))]
    weights = sum(math.prod(features_of(base.model.get_submodule(name))) for name in linear_layers(base.model))
    tokens = max(_tokens_at_once(run, execution) for run in runs)
    device: Device = "cuda" if base.device.type == "cuda" else "cpu"
    alone = apart(weights, depth_of(base.model), tokens, device)
    return [slice(k, k + 1) for k in range(len(runs))] if alone else [slice(None)]


def _tokens_at_once(run: TrainRun, execution: Execution) -> float:
    """Tokens that a run has in one pass of one rank, on average."""
    rows = -(-min(run.spec.global_batch, len(run.rows)) // execution.ranks.world)
    return min(rows, execution.micro_batch or rows) * sum(len(row.ids) for row in run.rows) / len(run.rows)
