"""Adapters in the upper layers alone: what lies below is computed once for every row and stays what it was."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from p2p_dist.config.study import LoraSpec
from p2p_dist.errors import UserError
from p2p_dist.modeling.base import Base, load_base
from p2p_dist.modeling.body import decoder_layers
from p2p_dist.modeling.lora import Adapters
from p2p_dist.training import lower_states
from p2p_dist.training.adapter_io import read_adapter, save_adapter
from p2p_dist.training.checkpoint import RunState
from p2p_dist.training.cohort import Observer, train_cohort
from p2p_dist.training.engine import Execution
from p2p_dist.training.lower_states import LowerStates
from p2p_dist.training.train_run import TrainRun
from tests.training.test_cohort import IDENTITY, rows, spec

UPPER = LoraSpec(r=4, layers=2)
FOUR_LAYERS = {**IDENTITY, "shape": {**IDENTITY["shape"], "layers": 4}}
RUNS = [TrainRun(spec(lora=UPPER), 0, rows(30, 0)), TrainRun(spec(lora=UPPER), 1, rows(21, 1))]


def four_layers() -> Base:
    return load_base(FOUR_LAYERS, {}, "float32")


def train(runs: list[TrainRun], observer: Observer | None = None, **execution: Any) -> list[torch.Tensor]:
    base = four_layers()
    adapters = Adapters(base.model, UPPER, len(runs))
    return [run.values for run in train_cohort(base, adapters, runs, observer, Execution(**execution))]


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Indices of the rows that passed the lower layers."""
    indices: list[int] = []
    compute = LowerStates._compute

    def counting(self: LowerStates, run: int, rows: list[int], device: torch.device) -> None:
        indices.extend(rows)
        compute(self, run, rows, device)

    monkeypatch.setattr(LowerStates, "_compute", counting)
    return indices


def test_each_row_passes_the_lower_layers_once(passed: list[int]) -> None:
    train(RUNS[:1])
    assert sorted(passed) == list(range(30)), "two epochs, one pass"


def test_stored_states_train_as_whole_passes_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs in a pass, with dropout; whole passes differ by rounding alone."""
    trained = train(RUNS)
    monkeypatch.setattr("p2p_dist.training.cohort.lower_states_of", lambda *_: None)
    for ours, expected in zip(trained, train(RUNS), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-5)


def test_runs_in_passes_of_their_own_check_by_their_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first batch is of one run while the model still computes with all: its odd tokens are no two runs' rows."""
    together = train(RUNS)
    monkeypatch.setattr("p2p_dist.training.passes.apart", lambda *_: True)
    for ours, expected in zip(train(RUNS), together, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-5)


def test_states_over_the_limit_are_not_kept(monkeypatch: pytest.MonkeyPatch, passed: list[int]) -> None:
    monkeypatch.setattr(lower_states, "LOWER_STATES_BYTES", 3000)
    train(RUNS[:1])
    assert not passed


def test_a_resumed_run_has_the_same_bits() -> None:
    """In the second epoch too, whose batches hold rows of several batches of the first."""
    states: list[RunState] = []

    class Keep(Observer):
        def wants_state(self, run: int, step: int) -> bool:
            return step == 5

        def keep(self, run: int, state: RunState) -> None:
            states.append(state)

    (expected,) = train(RUNS[:1], Keep())
    (resumed,) = train([replace(RUNS[0], resume=states[0])])
    assert torch.equal(resumed, expected)


def test_only_the_upper_layers_have_adapters() -> None:
    names = Adapters(four_layers().model, UPPER, 1).layers
    assert {name.split(".")[2] for name in names} == {"2", "3"}
    with pytest.raises(UserError, match=r"E295.*4 decoder layers, and adapters are asked for in 5"):
        Adapters(four_layers().model, LoraSpec(layers=5), 1)


def test_a_saved_adapter_is_peft_s_and_is_read_back(tmp_path: Path) -> None:
    """PEFT loads it by the layers' full names and gives the same logits."""
    from peft import PeftModel

    base = four_layers()
    adapters = Adapters(base.model, UPPER, 1)
    values = torch.randn(adapters.size, generator=torch.Generator().manual_seed(0)) / 10
    save_adapter(tmp_path, adapters, values, None)
    adapters.load(0, values)
    assert torch.equal(read_adapter(tmp_path, adapters), values)
    ids = torch.tensor([[5, 9, 2, 77]])
    other = four_layers().model
    other.set_attn_implementation("eager")
    plain = other(ids).logits
    peft = PeftModel.from_pretrained(other, tmp_path)
    base.model.set_attn_implementation("eager")
    torch.testing.assert_close(peft(ids).logits, base.model(ids).logits)
    assert not torch.allclose(peft(ids).logits, plain)


def test_layers_that_read_below_are_computed_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose third layer also reads what the first one computed gives the same with and without the feature."""
    made: list[LowerStates] = []

    def remember(*arguments: Any) -> LowerStates | None:
        states = lower_states.lower_states_of(*arguments)
        assert states is not None
        made.append(states)
        return states

    monkeypatch.setattr("p2p_dist.training.cohort.lower_states_of", remember)
    base = four_layers()
    first, _, third, _ = decoder_layers(base.model)
    seen: dict[str, torch.Tensor] = {}
    first.register_forward_hook(lambda module, inputs, output: seen.update(first=output))
    third.register_forward_pre_hook(lambda module, inputs: (inputs[0] + seen["first"], *inputs[1:]))
    train_cohort(base, Adapters(base.model, UPPER, 1), [replace(RUNS[0], stop_after_steps=1)])
    assert made[0].is_right is False


def test_nothing_is_left_in_the_model() -> None:
    base = four_layers()
    train_cohort(base, Adapters(base.model, UPPER, 1), [replace(RUNS[0], stop_after_steps=1)])
    assert not any("forward" in vars(module) for module in base.model.modules())
