"""A merged adapter computes what the adapter did, and pruning takes what it should and no more."""

from pathlib import Path

import pytest
import torch

from p2p_dist.config.methods import WeightPruning
from p2p_dist.config.model import resolve_model
from p2p_dist.config.study import LoraSpec
from p2p_dist.errors import UserError
from p2p_dist.modeling.base import Base, load_base
from p2p_dist.modeling.forward import answer_logits
from p2p_dist.modeling.lora import Adapters
from p2p_dist.modeling.lora_targets import target_names
from p2p_dist.modeling.merge import merge, prune
from p2p_dist.modeling.packing import pack
from p2p_dist.modeling.tokenization import Encoded
from p2p_dist.scheduling.study import configs_dir
from p2p_dist.training.adapter_io import save_adapter
from p2p_dist.training.objectives import consistency, perturbed_consistency

IDENTITY = resolve_model("tiny", configs_dir() / "models").identity
ROWS = [Encoded(str(at), [at + 1, at + 2, at + 3, 7], [9]) for at in range(5)]


def base() -> Base:
    return load_base(IDENTITY, {}, "float32")


def logits(model: Base) -> torch.Tensor:
    batch = pack([ROWS])
    with torch.no_grad():
        return answer_logits(model.model, batch.ids, batch.positions, batch.packed, batch.answers)


def test_merged_is_adapted(tmp_path: Path) -> None:
    adapted, plain = base(), base()
    adapters = Adapters(adapted.model, LoraSpec(r=3, alpha=5.0), 1)
    values = torch.randn(adapters.size, generator=torch.Generator().manual_seed(0)) * 0.1
    adapters.load(0, values)
    save_adapter(tmp_path, adapters, values, "tiny")
    before = logits(plain)
    merge(plain, tmp_path)
    assert not torch.allclose(logits(plain), before, atol=1e-3)
    torch.testing.assert_close(logits(plain), logits(adapted), atol=1e-5, rtol=1e-4)


def weights(model: Base) -> dict[str, torch.Tensor]:
    return {
        name: model.model.get_submodule(name).weight.detach().clone() for name in target_names(model.model, LoraSpec())
    }


def test_magnitude_takes_the_smallest_of_a_layer() -> None:
    model = base()
    before = weights(model)
    prune(model, WeightPruning(method="magnitude", sparsity=0.25), [])
    for name, after in weights(model).items():
        gone = after == 0
        assert int(gone.sum()) == after.numel() // 4
        assert before[name][gone].abs().max() <= before[name][~gone].abs().min()
        assert torch.equal(after[~gone], before[name][~gone])


def test_wanda_takes_as_many_of_every_row_and_looks_at_inputs() -> None:
    by_input, by_weight = base(), base()
    before = weights(by_input)
    prune(by_input, WeightPruning(method="wanda", sparsity=0.5), ROWS)
    prune(by_weight, WeightPruning(method="magnitude", sparsity=0.5), [])
    for name, after in weights(by_input).items():
        assert torch.equal((after == 0).sum(1), torch.full((after.shape[0],), after.shape[1] // 2))
        assert torch.equal(after[after != 0], before[name][after != 0])
    assert any(
        not torch.equal(a == 0, b == 0)
        for a, b in zip(weights(by_input).values(), weights(by_weight).values(), strict=True)
    )


def test_fillers_are_not_calibrated_on() -> None:
    """A packed batch is filled up with token 0; what is pruned must not depend on it."""
    alone, again = base(), base()
    prune(alone, WeightPruning(method="wanda", sparsity=0.5), ROWS[:1])
    prune(again, WeightPruning(method="wanda", sparsity=0.5), ROWS[:1] * 3)
    assert all(torch.equal(a, b) for a, b in zip(weights(alone).values(), weights(again).values(), strict=True))


def deep() -> Base:
    shape = {**IDENTITY["shape"], "layers": 5}
    return load_base({**IDENTITY, "shape": shape}, {}, "float32")


def test_perturbation_raises_disagreement_and_keeps_gradients() -> None:
    """The perturbation makes layers disagree more and leaves gradients alone."""
    model = deep()
    adapters = Adapters(model.model, LoraSpec(r=2), 1)
    adapters.load(0, torch.randn(adapters.size, generator=torch.Generator().manual_seed(0)) * 0.1)
    adapters.flat_grads.fill_(3.0)
    batch = pack([ROWS])
    embedded = model.model.get_input_embeddings()(batch.ids)
    plain, worse = consistency(model, batch, embedded), perturbed_consistency(model, batch, 1e-3)
    assert worse.shape == (1,)
    assert float(worse.detach()) > float(plain.detach()) > 0
    assert bool((adapters.flat_grads == 3.0).all()), "asking for the embeddings' gradient must not touch the adapter's"
    worse.sum().backward()
    assert not bool((adapters.flat_grads == 3.0).all())


def test_too_few_layers_are_refused() -> None:
    with pytest.raises(UserError, match="E266"):
        perturbed_consistency(base(), pack([ROWS]), 0.1)
