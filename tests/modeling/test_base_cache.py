"""A base that is kept from job to job is the base that was loaded, or it is not handed out."""

import weakref
from typing import Any

import pytest
import torch
from torch import nn

from p2p_dist.config.model import resolve_model
from p2p_dist.config.study import LoraSpec
from p2p_dist.errors import Exit, UserError
from p2p_dist.modeling.base import Base, load_base
from p2p_dist.modeling.base_cache import BaseCache
from p2p_dist.modeling.lora import Adapters, LoraLinear
from p2p_dist.modeling.weight_checksum import WeightChecksum, checksum
from p2p_dist.scheduling.study import configs_dir

IDENTITY = resolve_model("tiny", configs_dir() / "models").identity


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8, torch.int64, torch.bool])
@pytest.mark.parametrize("count", [1, 7, 8, 524_307])
def test_a_change_of_any_element_is_another_checksum(dtype: torch.dtype, count: int) -> None:
    values = torch.randint(0, 2, (count,), generator=torch.Generator().manual_seed(1)).to(dtype)
    before = checksum([values])
    assert checksum([values.clone()]) == before
    for at in {0, count // 2, count - 1}:
        other = values.clone()
        other[at] = not other[at] if dtype == torch.bool else other[at] + 1
        assert checksum([other]) != before


def test_a_checksum_knows_places_and_order() -> None:
    one, two = torch.arange(1000.0), torch.arange(1000.0).flip(0)
    swapped = one.clone()
    swapped[[10, 700]] = one[[700, 10]]
    assert (
        len({checksum([one, two]), checksum([two, one]), checksum([swapped, two]), checksum([one]), checksum([])}) == 5
    )
    assert checksum([torch.zeros(4, 6).t()]) == checksum([torch.zeros(6, 4)]), (
        "layouts that are not contiguous count by their values"
    )


def test_weight_checksum_notices_a_bit_and_a_replaced_weight() -> None:
    """A seal breaks when a bit changes and when a weight is replaced."""
    model = nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 2))
    weight_checksum = WeightChecksum(model)
    assert weight_checksum.holds(model)
    bias = model[1].bias
    with torch.no_grad():
        bias.view(torch.int32)[0] ^= 1
        assert not weight_checksum.holds(model)
        bias.view(torch.int32)[0] ^= 1
    assert weight_checksum.holds(model)
    model[1].bias = nn.Parameter(bias.detach().clone())
    assert not weight_checksum.holds(model), "the same numbers, but nobody watches them"


def test_base_cache_hands_on_the_base_without_adapters() -> None:
    """The next job gets the same base without the adapters of the last."""
    base_cache = BaseCache()
    base = base_cache.load(IDENTITY, {}, "float32")
    plain = [name for name, _ in base.model.named_modules()]
    Adapters(base.model, LoraSpec(r=4), 3)
    assert any(isinstance(part, LoraLinear) for part in base.model.modules())
    assert base_cache.look_over()
    assert [name for name, _ in base.model.named_modules()] == plain
    Adapters(base.model, LoraSpec(r=2), 1)
    again = base_cache.load(IDENTITY, {}, "float32")
    assert again is base
    assert [name for name, _ in base.model.named_modules()] == plain, "two loads within one job"


def test_another_base_takes_the_place() -> None:
    base_cache = BaseCache()
    first = base_cache.load(IDENTITY, {}, "float32")
    assert base_cache.load(IDENTITY, {}, "bfloat16").dtype == torch.bfloat16
    assert base_cache.load(IDENTITY, {}, "float32") is not first


def test_a_base_is_gone_before_the_next_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even one whose parts hold each other; a device may have room for one."""
    base_cache = BaseCache()
    model = base_cache.load(IDENTITY, {}, "float32").model
    model.itself = [model]
    gone = weakref.ref(model)
    del model
    found: list[bool] = []

    def load(*arguments: Any) -> Base:
        found.append(gone() is None)
        return load_base(*arguments)

    monkeypatch.setattr("p2p_dist.modeling.base_cache.load_base", load)
    base_cache.load(IDENTITY, {}, "bfloat16")
    assert found == [True]


def test_a_base_that_will_be_changed_is_not_kept() -> None:
    base_cache = BaseCache()
    changed = base_cache.load(IDENTITY, {}, "float32", keep=False)
    assert changed.weight_checksum is None
    assert base_cache.load(IDENTITY, {}, "float32") is not changed


def test_changed_weights_are_not_lent_and_nothing_is_kept() -> None:
    """Changed weights are handed to nobody and nothing is kept that they made."""
    base_cache = BaseCache()
    base = base_cache.load(IDENTITY, {}, "float32")
    base.check()
    with torch.no_grad():
        next(base.model.parameters())[3, 1] += 1e-6
    with pytest.raises(UserError, match="E316") as caught:
        base.check()
    assert caught.value.exit_code == Exit.INTEGRITY
    assert not base_cache.look_over(), "the worker ends"
    with pytest.raises(UserError, match="E316"):
        base_cache.load(IDENTITY, {}, "float32")


def _hook(model: Any) -> None:
    model.model.layers[0].register_forward_hook(lambda *_: None)


def _replace(model: Any) -> None:
    norm = model.model.norm
    norm.weight = nn.Parameter(norm.weight.detach().clone(), requires_grad=False)


def _train(model: Any) -> None:
    model.model.layers[0].train()


def _attention(model: Any) -> None:
    model.set_attn_implementation("sdpa")


def _gradient(model: Any) -> None:
    model.lm_head.weight.grad = torch.zeros_like(model.lm_head.weight)


def _generation(model: Any) -> None:
    model.generation_config.temperature = 0.5


@pytest.mark.parametrize("change", [_hook, _replace, _train, _attention, _gradient, _generation])
def test_a_model_that_was_left_different_is_loaded_again(change: Any) -> None:
    base_cache = BaseCache()
    base = base_cache.load(IDENTITY, {}, "float32")
    change(base.model)
    assert base_cache.look_over(), "weights are the same, so the worker goes on"
    assert base_cache.load(IDENTITY, {}, "float32") is not base


def test_job_that_changes_torch_settings_ends_its_worker() -> None:
    """A job that leaves torch different is the last of its worker."""
    base_cache = BaseCache()
    assert base_cache.look_over()
    torch.set_default_dtype(torch.float64)
    try:
        assert not base_cache.look_over()
    finally:
        torch.set_default_dtype(torch.float32)
    assert base_cache.look_over()
