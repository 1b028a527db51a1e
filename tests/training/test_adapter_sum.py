"""The weighted sum of two adapters, and the amplification of one."""

from pathlib import Path

import pytest
import torch

from p2p_dist.config.study import LoraSpec
from p2p_dist.errors import UserError
from p2p_dist.modeling.base import load_base
from p2p_dist.modeling.lora import Adapters
from p2p_dist.modeling.packing import pack
from p2p_dist.training.adapter_io import read_sum, save_adapter
from p2p_dist.training.objectives import cross_entropy, with_amplification
from tests.training.test_cohort import IDENTITY, rows
from tests.training.test_objectives import adapted, drawn


def updates(adapters: Adapters, values: torch.Tensor) -> dict[str, torch.Tensor]:
    """Dense scale * B A of every layer."""
    named = adapters.state_dict(values)
    scale = adapters.spec.alpha / adapters.spec.r
    return {
        name: scale * named[name.replace("lora_A", "lora_B")] @ matrix
        for name, matrix in named.items()
        if "lora_A" in name
    }


def saved(folder: Path, seed: int, spec: LoraSpec) -> tuple[Path, dict[str, torch.Tensor]]:
    adapters = Adapters(load_base(IDENTITY, {}, "float32").model, spec, 1)
    values = drawn(adapters, seed)
    folder.mkdir()
    save_adapter(folder, adapters, values, None)
    return folder, updates(adapters, values)


def test_sum_of_adapters_is_that_of_their_updates(tmp_path: Path) -> None:
    """Golden value: the adapter of both ranks is w1 D1 + w2 D2, which averages of the matrices are not."""
    first, of_first = saved(tmp_path / "first", 1, LoraSpec(r=4, alpha=8))
    second, of_second = saved(tmp_path / "second", 2, LoraSpec(r=4, alpha=4))
    both = Adapters(load_base(IDENTITY, {}, "float32").model, LoraSpec(r=8, alpha=16), 1)
    summed = updates(both, read_sum([first, second], (0.3, 0.7), both))
    assert summed.keys() == of_first.keys()
    for name, update in summed.items():
        torch.testing.assert_close(update, 0.3 * of_first[name] + 0.7 * of_second[name], rtol=1e-5, atol=1e-6)
    one = Adapters(load_base(IDENTITY, {}, "float32").model, LoraSpec(r=4, alpha=8), 1)
    averaged = updates(one, (drawn(one, 1) + drawn(one, 2)) / 2)
    halves = updates(both, read_sum([first, first], (0.5, 0.5), both))
    name = next(iter(of_first))
    torch.testing.assert_close(halves[name], of_first[name], rtol=1e-5, atol=1e-6)  # two copies are the one
    assert float((averaged[name] - summed[name]).abs().max()) > 1e-2


def test_sum_of_other_ranks_is_refused(tmp_path: Path) -> None:
    first, _ = saved(tmp_path / "first", 1, LoraSpec(r=4, alpha=8))
    small = Adapters(load_base(IDENTITY, {}, "float32").model, LoraSpec(r=6, alpha=8), 1)
    with pytest.raises(UserError, match=r"E307.*do not add up to 6"):
        read_sum([first, first], (0.5, 0.5), small)


def test_amplification_counts_norms_up_to_its_limit() -> None:
    base, adapters = adapted()
    values = drawn(adapters, 2)
    adapters.load(0, values)
    batch = pack([rows(6, 0)])
    counts = torch.tensor([len(batch.targets)])
    usual = float(cross_entropy(base, batch, counts).detach())
    norms = [float(matrix.norm()) for matrix in adapters.state_dict(values).values()]
    amplified = with_amplification(base, batch, counts, weight=0.5, limit=1e6)
    assert float(amplified.detach()) == pytest.approx(usual - 0.5 * sum(norms), rel=1e-5)
    amplified.sum().backward()
    free = adapters.flat_grads.clone()
    adapters.flat_grads.zero_()
    limit = min(norms) / 2
    bounded = with_amplification(base, batch, counts, weight=0.5, limit=limit)
    assert float(bounded.detach()) == pytest.approx(usual - 0.5 * limit * len(norms), rel=1e-5)
    bounded.sum().backward()
    capped = adapters.flat_grads.clone()
    adapters.flat_grads.zero_()
    cross_entropy(base, batch, counts).sum().backward()
    torch.testing.assert_close(capped, adapters.flat_grads)
    assert float((free - capped).abs().max()) > 1e-3


def test_causal_attention_of_the_first_token_has_no_gradient() -> None:
    """Golden value: why Obliviate's second term is not built. Position 0 sees itself alone."""
    scores = torch.randn(5, 5, requires_grad=True)
    attention = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), float("-inf")).softmax(-1)
    assert attention[0].tolist() == [1, 0, 0, 0, 0]
    attention[0].norm().backward()
    assert scores.grad is not None
    assert float(scores.grad.abs().max()) == 0
