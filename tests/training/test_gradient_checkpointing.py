"""Gradient checkpointing changes where numbers come from and not what they are."""

import pytest
import torch

from p2p_dist.modeling.base import load_base
from p2p_dist.modeling.gradient_checkpointing import gradient_checkpointing
from p2p_dist.modeling.lora import Adapters
from p2p_dist.training.cohort import train_cohort
from p2p_dist.training.engine import Execution
from tests.training.test_cohort import IDENTITY, RUNS


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_a_cohort_trains_to_the_same_bits(micro_batch: int | None) -> None:
    """With dropout, whose masks must be the same the second time, and rows in micro-batches."""
    ends = []
    for wanted in (False, True):
        base = load_base(IDENTITY, {}, "float32")
        with gradient_checkpointing(base.model, wanted):
            found = train_cohort(
                base, Adapters(base.model, RUNS[0].spec.lora, 2), RUNS[:2], execution=Execution(micro_batch=micro_batch)
            )
        ends.append(torch.stack([run.values for run in found]))
    assert torch.equal(*ends)
