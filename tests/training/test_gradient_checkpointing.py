"""Gradient checkpointing changes where numbers come from and not what they are."""

from typing import Any

import pytest
import torch

from p2p_dist.modeling import gradient_checkpointing
from p2p_dist.modeling.base import load_base
from p2p_dist.modeling.lora import Adapters
from p2p_dist.training.cohort import train_cohort
from p2p_dist.training.engine import Execution
from tests.training.test_cohort import IDENTITY, RUNS


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_a_cohort_trains_to_the_same_bits(micro_batch: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """With dropout, whose masks must be the same the second time, and rows in micro-batches."""
    plain, passes = gradient_checkpointing.checkpoint, [0]

    def counted(*inputs: Any, **settings: Any) -> Any:
        passes[0] += 1
        return plain(*inputs, **settings)

    monkeypatch.setattr(gradient_checkpointing, "checkpoint", counted)
    ends = []
    for wanted in (False, True):
        base = load_base(IDENTITY, {}, "float32")
        adapters = Adapters(base.model, RUNS[0].spec.lora, 2)
        execution = Execution(micro_batch=micro_batch, gradient_checkpointing=wanted)
        ends.append(torch.stack([run.values for run in train_cohort(base, adapters, RUNS[:2], execution=execution)]))
        assert (passes[0] > 0) is wanted
    assert torch.equal(*ends)
