"""Fused forms that GPUs take, against the plain ones, on a CPU."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from p2p_dist.modeling import fused_rope, lora_product
from p2p_dist.modeling.dropout import Dropout, keep_masks
from p2p_dist.modeling.fused_norms import FusedRMSNorm, fuse_norms
from p2p_dist.modeling.gather import Gather
from p2p_dist.modeling.lora import LoraLinear
from p2p_dist.modeling.lora_product import SameInput, products, same_inputs
from p2p_dist.modeling.packing import pack
from p2p_dist.modeling.tokenization import Encoded

RUNS, TOKENS, IN, OUT, R = 3, 7, 10, 6, 4


def adapted(bias: bool, rate: float, outs: Sequence[int], draw: torch.Generator) -> list[LoraLinear]:
    """Layers in double precision with adapters of `RUNS` runs, and dropout masks for them and a layer before."""
    dropout = Dropout()
    layers = [
        LoraLinear(nn.Linear(IN, out, bias=bias).double().requires_grad_(False), index, 1.7, dropout)
        for index, out in enumerate(outs, 1)
    ]
    for layer, out in zip(layers, outs, strict=True):
        layer.lora_a = torch.randn(RUNS, R, IN, generator=draw).double().requires_grad_()
        layer.lora_b = torch.randn(RUNS, out, R, generator=draw).double().requires_grad_()
    if rate:
        drawn = [keep_masks(1 + len(outs), TOKENS, R, rate, draw, torch.float64) for _ in range(RUNS)]
        dropout.masks = torch.stack(drawn, dim=1)
    return layers


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rate", [0.0, 0.25])
@pytest.mark.parametrize("outs", [(OUT,), (OUT, 8, 2)], ids=["one", "three"])
def test_lora_products_are_the_plain_products(bias: bool, rate: float, outs: tuple[int, ...]) -> None:
    """Values and all gradients in double precision, and that of x is left out where it needs none."""
    draw = torch.Generator().manual_seed(0)
    layers = adapted(bias, rate, outs, draw)
    x = torch.randn(RUNS, TOKENS, IN, generator=draw).double().requires_grad_()
    weights = torch.randn(RUNS, TOKENS, sum(outs), generator=draw).double()
    params = [matrix for layer in layers for matrix in (layer.lora_a, layer.lora_b)]
    plain, fused = torch.cat([layer(x) for layer in layers], 2), torch.cat(products(layers, x), 2)
    torch.testing.assert_close(fused, plain)
    expected = torch.autograd.grad((plain * weights).sum(), (x, *params))
    torch.testing.assert_close(torch.autograd.grad((fused * weights).sum(), (x, *params)), expected)
    frozen = torch.cat(products(layers, x.detach()), 2)
    torch.testing.assert_close(torch.autograd.grad((frozen * weights).sum(), params), expected[1:])
    flat = torch.cat(products(layers, x.reshape(-1, IN)), 1)
    torch.testing.assert_close(flat, plain.reshape(-1, sum(outs)))


def test_layers_share_a_product_while_they_read_the_same_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a layer meets another input, each computes its own from the next step on, since gradient checkpointing
    computes a pass again with the same products. The answers are always right."""
    layers = adapted(False, 0.0, (OUT, 8, 2), torch.Generator().manual_seed(0))
    group, sizes = SameInput(layers), []
    monkeypatch.setattr(lora_product, "products", lambda layers, x: sizes.append(len(layers)) or products(layers, x))
    x, other = (torch.randn(RUNS, TOKENS, IN).double() for _ in range(2))

    def pass_of(*inputs: torch.Tensor) -> list[int]:
        sizes.clear()
        for layer, each in zip(layers, inputs, strict=True):
            torch.testing.assert_close(group.answer(layer, each), layer(each))
        return list(sizes)

    assert pass_of(x, x, x) == [3]
    group.settle()
    assert pass_of(x, x, other) == pass_of(x, x, other) == [3, 1]
    group.settle()
    assert pass_of(x, x, x) == [1, 1, 1]


def test_layers_of_a_module_are_grouped_by_their_input() -> None:
    """Names tell; a layer without an adapter is no member, and one whose dropout masks lie apart is a group of its
    own."""
    names = ["0.attn.q_proj", "0.attn.v_proj", "0.attn.o_proj", "0.mlp.gate_proj", "0.mlp.up_proj", "1.attn.q_proj"]
    layers = dict(zip(names, adapted(False, 0.0, (OUT,) * len(names), torch.Generator()), strict=True))
    assert [len(group.layers) for group in same_inputs(layers)] == [2, 1, 2, 1]
    apart = {name: layers[name] for name in ("0.attn.q_proj", "0.attn.o_proj", "0.attn.v_proj")}
    assert [len(group.layers) for group in same_inputs(apart)] == [1, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_of_llama_are_fused_and_gemma_keeps_its_own(dtype: torch.dtype) -> None:
    """Gemma multiplies by 1 + weight, under the same name; the numbers tell."""
    model = nn.Sequential(LlamaRMSNorm(16, eps=1e-6), GemmaRMSNorm(16), nn.LayerNorm(16)).to(dtype)
    for norm in model[:2]:
        nn.init.normal_(norm.weight, 1.0, 0.2)
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
    before = model[0](x)
    assert fuse_norms(model) == 1
    assert isinstance(model[0], FusedRMSNorm)
    assert isinstance(model[1], GemmaRMSNorm)
    torch.testing.assert_close(model[0](x), before)
    assert "0.weight" in model.state_dict()


def test_gather_has_the_gradients_of_index_select() -> None:
    """Of packed rows of several lengths with filler, there and back; nothing is added up in the backward pass."""
    rows = [Encoded(str(n), list(range(n)), [0]) for n in (5, 17, 3, 16)]
    packed = pack([rows, rows[:2]]).packed
    spread, slots, tokens = packed.spread, torch.arange(len(packed.spread)), torch.arange(len(packed.pack))
    real_tokens = (spread[packed.pack] == tokens).double()[:, None]
    real_slots = (packed.pack[spread] == slots).double()[:, None]
    assert int(real_tokens.sum()) == int(real_slots.sum()) == sum(n for _, n in packed.places)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(len(tokens), 3, generator=draw).double().requires_grad_()
    weights = torch.randn(len(tokens), 3, generator=draw).double() * real_tokens

    def gradient(to_slots: torch.Tensor, back: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        return torch.autograd.grad((back(to_slots.sin()) * weights).sum(), x)[0]

    expected = gradient(x.index_select(0, spread), lambda there: there.index_select(0, packed.pack))
    found = gradient(
        Gather.apply(x, spread, packed.pack, real_tokens),
        lambda there: Gather.apply(there, packed.pack, spread, real_slots),
    )
    assert torch.equal(found, expected)


def test_rotation_is_that_of_llama_with_its_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, heads, 5, 8, generator=draw).double().requires_grad_() for heads in (4, 2))
    cos, sin = (torch.randn(2, 5, 8, generator=draw).double() for _ in range(2))
    expected, found = modeling_llama.apply_rotary_pos_emb(q, k, cos, sin), fused_rope.fused(q, k, cos, sin)
    torch.testing.assert_close(found, expected)
    weights = [torch.randn(part.shape, generator=draw).double() for part in expected]
    gradients = [
        torch.autograd.grad(sum((part * weight).sum() for part, weight in zip(parts, weights, strict=True)), (q, k))
        for parts in (expected, found)
    ]
    torch.testing.assert_close(gradients[1], gradients[0])


def test_rope_of_a_family_is_replaced_once_and_only_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that rotates otherwise stays; on CPUs a family's own function is called."""
    plain = modeling_llama.apply_rotary_pos_emb
    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", plain)  # put back afterwards
    model = object.__new__(modeling_llama.LlamaForCausalLM)
    assert fused_rope.fuse_rope(model)
    rope = modeling_llama.apply_rotary_pos_emb
    assert rope is not plain
    assert fused_rope.fuse_rope(model)
    assert modeling_llama.apply_rotary_pos_emb is rope
    q, k, cos = torch.randn(1, 2, 3, 4), torch.randn(1, 1, 3, 4), torch.randn(1, 3, 4)
    assert all(torch.equal(a, b) for a, b in zip(rope(q, k, cos, cos), plain(q, k, cos, cos), strict=True))
    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", lambda q, k, cos, sin: (q * sin, k * cos))
    assert not fused_rope.fuse_rope(model)
