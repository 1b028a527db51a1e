"""8-bit moments: they train, they are 8 bits, and a checkpoint of them goes on to the same bits."""

import pytest
import torch

from p2p_dist.config.study import LoraSpec
from p2p_dist.modeling.base import load_base
from p2p_dist.modeling.lora import Adapters
from p2p_dist.training.adamw_8bit import adamw_8bit, moments_of, restore
from p2p_dist.training.cohort import train_cohort
from p2p_dist.training.train_run import TrainRun
from tests.training.test_cohort import IDENTITY, rows, spec


def steps(numbers: torch.nn.Parameter, optimizer: torch.optim.Optimizer, which: range) -> None:
    for at in which:
        draw = torch.Generator().manual_seed(at)
        numbers.grad = torch.randn(numbers.numel(), generator=draw) * (0.1 + at % 7)
        numbers.grad[300:900] = 0
        optimizer.step()


@pytest.mark.parametrize("size", [10_007, 100])
def test_moments_go_through_fp32_to_the_same_bits(size: int) -> None:
    numbers = torch.nn.Parameter(torch.randn(size, generator=torch.Generator().manual_seed(0)))
    optimizer = adamw_8bit(numbers, 1e-2, 0.01)
    steps(numbers, optimizer, range(20))
    state = optimizer.state[numbers]
    assert (state["state1"].dtype == torch.uint8) == (size > 4096)
    other = torch.nn.Parameter(numbers.detach().clone())
    again = adamw_8bit(other, 1e-2, 0.01)
    restore(again, other, 20, *moments_of(state))
    steps(numbers, optimizer, range(20, 40))
    steps(other, again, range(20, 40))
    assert torch.equal(numbers, other)


def test_a_run_learns_with_it_and_a_cohort_may_mix_optimizers() -> None:
    lora = LoraSpec(r=32, dropout=0.0)
    eight, plain = spec(num_train_epochs=6, optimizer="adamw_8bit", lora=lora), spec(num_train_epochs=6, lora=lora)
    base = load_base(IDENTITY, {}, "float32")
    adapters = Adapters(base.model, lora, 2)
    assert adapters.size > 4096
    first, second = train_cohort(base, adapters, [TrainRun(eight, 0, rows(40, 0)), TrainRun(plain, 0, rows(40, 0))])
    assert not torch.equal(first.values, second.values)
    assert first.loss == pytest.approx(second.loss, abs=0.25)
    assert first.loss < 4.0, "guessing among 256 bytes is 5.5"
