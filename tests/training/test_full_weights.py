"""Full-parameter fine-tuning without DeepSpeed: AdamW over all weights, resumed to the bit, saved as a model that
transformers loads."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from p2p_dist.config.study import LoraSpec
from p2p_dist.errors import UserError
from p2p_dist.modeling.base import Base, load_base
from p2p_dist.modeling.full_weights import FullWeights
from p2p_dist.training import full_io
from p2p_dist.training.cohort import Observer, train_cohort
from p2p_dist.training.engine import Execution
from p2p_dist.training.full_io import read_model, save_model
from p2p_dist.training.train_run import Trained, TrainRun
from tests.training.test_checkpoint import Keeper
from tests.training.test_cohort import IDENTITY, rows, spec

SPEC = spec(method="full", lora=LoraSpec(), learning_rate=1e-3, warmup_steps=2, max_grad_norm=0.1, num_train_epochs=1)
RUN = TrainRun(SPEC, 3, rows(21, 5))


def train(run: TrainRun, observer: Observer, execution: Execution | None = None) -> tuple[Base, FullWeights, Trained]:
    base = load_base(IDENTITY, {}, "float32")
    weights = FullWeights(base.model, base.device)
    (trained,) = train_cohort(base, weights, [run], observer, execution or Execution())
    return base, weights, trained


def reference() -> torch.Tensor:
    """The weights after the same steps by transformers' own forward pass, row by row, and torch's AdamW."""
    model = load_base(IDENTITY, {}, "float32").model.requires_grad_()
    model.set_attn_implementation("eager")
    weights = list(model.parameters())
    optimizer = torch.optim.AdamW(weights, lr=SPEC.learning_rate, weight_decay=SPEC.weight_decay)
    schedule = RUN.schedule
    for step, batch in enumerate(schedule.batches(0)):
        optimizer.zero_grad()
        losses = []
        for index in batch:
            row = RUN.rows[index]
            ids = torch.tensor([row.ids])
            logits = model(input_ids=ids, use_cache=False).logits[0, -len(row.targets) :]
            losses.append(cross_entropy(logits, torch.tensor(row.targets)))
        torch.stack(losses).mean().backward()
        torch.nn.utils.clip_grad_norm_(weights, 0.1)
        rate = (step + 1) / 2 if step < 2 else 1 - (step - 2) / (schedule.steps - 2)
        optimizer.param_groups[0]["lr"] = SPEC.learning_rate * rate
        optimizer.step()
    return torch.cat([weight.detach().reshape(-1) for weight in weights])


def test_full_training_is_adamw_over_all_weights() -> None:
    before = load_base(IDENTITY, {}, "float32").model
    _, weights, trained = train(RUN, Keeper())
    torch.testing.assert_close(trained.values, reference(), atol=2e-5, rtol=0)
    changed = weights.state_dict(trained.values)
    assert all(not torch.equal(changed[name], weight) for name, weight in before.named_parameters())


def test_full_training_resumes_to_the_same_bits() -> None:
    keeper = Keeper()
    keeper.wants_state = lambda run, step: step == 2  # type: ignore[method-assign]
    _, _, uninterrupted = train(RUN, keeper)
    _, _, resumed = train(replace(RUN, resume=keeper.states[0, 2]), Keeper())
    assert torch.equal(uninterrupted.values, resumed.values)


def test_full_training_in_micro_batches_gives_one_result() -> None:
    _, _, one_batch = train(RUN, Keeper())
    _, _, split = train(RUN, Keeper(), Execution(micro_batch=3, gradient_checkpointing=True))
    torch.testing.assert_close(split.values, one_batch.values, atol=2e-5, rtol=0)


@pytest.mark.parametrize("file_bytes", [full_io.FILE_BYTES, 20_000])
def test_saved_model_loads_in_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_bytes: int) -> None:
    """In one file or several, with the logits of the trained weights."""
    monkeypatch.setattr(full_io, "FILE_BYTES", file_bytes)
    base, weights, trained = train(replace(RUN, stop_after_steps=2), Keeper())
    save_model(tmp_path, base, weights, trained.values)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (file_bytes == 20_000)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    names = dict(loaded.named_parameters())
    for name, weight in weights.state_dict(trained.values).items():
        assert torch.equal(names[name], weight)
    again = load_base(IDENTITY, {}, "float32")
    other = FullWeights(again.model, again.device)
    assert torch.equal(read_model(tmp_path, other, torch.float32), trained.values)


def test_saved_model_of_another_shape_is_refused(tmp_path: Path) -> None:
    base = load_base(IDENTITY, {}, "float32")
    weights = FullWeights(base.model, base.device)
    save_model(tmp_path, base, weights, weights.init_params(torch.Generator()))
    weights.layout[0] = replace(weights.layout[0], name="other.weight")
    with pytest.raises(UserError, match=r"E307.*is none of this model"):
        read_model(tmp_path, weights, torch.float32)
