"""SwiGLU as GPUs take it, against the plain form, on a CPU."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.functional import silu
from transformers import FalconH1Config, GemmaConfig, LlamaConfig
from transformers.models.falcon_h1.modeling_falcon_h1 import FalconH1MLP
from transformers.models.gemma.modeling_gemma import GemmaMLP
from transformers.models.llama.modeling_llama import LlamaMLP

from bench.memory_model import SHAPES
from p2p_dist.modeling.base import load_base
from p2p_dist.modeling.dropout import Dropout
from p2p_dist.modeling.fused_swiglu import FusedSwiGLU, SwiGLU, fuse_swiglu
from p2p_dist.modeling.lora import LoraLinear
from p2p_dist.modeling.lora_product import share_inputs

HIDDEN = 32
SIZES = {"hidden_size": HIDDEN, "intermediate_size": 24}
RUNS, R, TOKENS = 2, 4, 5


def plain(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return silu(gate) * up


def drawn(dtype: torch.dtype, scale: float = 3.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gate and up, and a gradient of what they give."""
    draw = torch.Generator().manual_seed(0)
    gate, up, grad = (scale * torch.randn(64, 96, generator=draw, dtype=torch.float64) for _ in range(3))
    return gate.to(dtype).requires_grad_(), up.to(dtype).requires_grad_(), grad.to(dtype)


def computed(form: Callable[..., torch.Tensor], tensors: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """The value and the gradients of gate and up."""
    gate, up, grad = tensors
    value = form(gate, up)
    return [value.detach(), *torch.autograd.grad(value, (gate, up), grad)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.1, 3.0, 100.0])
def test_swiglu_has_the_bits_of_the_plain_form(dtype: torch.dtype, scale: float) -> None:
    tensors = drawn(dtype, scale)
    for ours, expected in zip(computed(SwiGLU.apply, tensors), computed(plain, tensors), strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("scale", [0.1, 3.0, 100.0])
def test_bfloat16_is_no_less_accurate_than_the_plain_form(scale: float) -> None:
    """Against float64, on average: value and gradients."""
    tensors = drawn(torch.bfloat16, scale)
    exact = computed(plain, tuple(each.detach().double().requires_grad_() for each in tensors))
    for ours, theirs, right in zip(computed(SwiGLU.apply, tensors), computed(plain, tensors), exact, strict=True):
        assert float((ours - right).abs().mean()) <= float((theirs - right).abs().mean())
        assert float((ours - right).norm() / right.norm()) < torch.finfo(torch.bfloat16).eps


def test_gradients_are_those_of_finite_differences() -> None:
    gate, up, _ = (each.detach()[:3, :4].requires_grad_() for each in drawn(torch.float64))
    assert torch.autograd.gradcheck(SwiGLU.apply, (gate, up))


def test_gate_and_up_are_all_that_is_kept() -> None:
    """The plain form keeps silu(gate) too."""
    gate, up, _ = drawn(torch.float32)
    kept: dict[Callable[..., torch.Tensor], set[int]] = {}
    for form in (SwiGLU.apply, plain):
        tensors: list[torch.Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda each, to=tensors: to.append(each) or each, lambda each: each
        ):
            form(gate, up)
        kept[form] = {each.data_ptr() for each in tensors}
    assert kept[SwiGLU.apply] == {gate.data_ptr(), up.data_ptr()}
    assert len(kept[plain]) == 3


def adapted(mlp: nn.Module) -> list[torch.Tensor]:
    """The parameters of adapters of `RUNS` runs, put on all layers of an MLP in double precision."""
    draw = torch.Generator().manual_seed(1)
    mlp.double().requires_grad_(False)
    layers = {
        name: LoraLinear(layer, 0, 1.7, Dropout()) for name, layer in list(mlp.named_children()) if name != "act_fn"
    }
    for index, (name, layer) in enumerate(layers.items()):
        layer.module_index = index
        layer.lora_a, layer.lora_b = (
            torch.randn(RUNS, *shape, generator=draw).double().requires_grad_()
            for shape in ((R, layer.in_features), (layer.out_features, R))
        )
        setattr(mlp, name, layer)
    share_inputs(layers)
    return [matrix for layer in layers.values() for matrix in (layer.lora_a, layer.lora_b)]


def test_second_backward_pass_gives_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a kept graph with the products that GPUs take, whose sums are in place; and they are the plain ones."""
    torch.manual_seed(0)
    mlp = nn.Sequential(LlamaMLP(LlamaConfig(**SIZES)))
    assert fuse_swiglu(mlp) == 1
    params = adapted(mlp[0])
    x = torch.randn(RUNS, TOKENS, HIDDEN, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(RUNS, TOKENS, HIDDEN, dtype=torch.float64)
    monkeypatch.setattr(LoraLinear, "forward", lambda self, x: self.same_input.answer(self, x))
    loss = (mlp(x) * weights).sum()
    first = torch.autograd.grad(loss, (x, *params), retain_graph=True)
    second = torch.autograd.grad(loss, (x, *params))
    assert mlp[0].gate_proj.same_input.shared
    monkeypatch.undo()
    monkeypatch.setattr(SwiGLU, "apply", plain)
    expected = torch.autograd.grad((mlp(x) * weights).sum(), (x, *params))
    for one, two, right in zip(first, second, expected, strict=True):
        assert torch.equal(one, two)
        torch.testing.assert_close(one, right)


class Clamped(LlamaMLP):
    """Another formula for large numbers alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x).clamp(max=20.0)) * self.up_proj(x))


class Exchanged(LlamaMLP):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.up_proj(x)) * self.gate_proj(x))


class Rounded(LlamaMLP):
    """The same formula, rounded otherwise in bfloat16."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_proj(x), self.up_proj(x)
        return self.down_proj((silu(gate.float()) * up.float()).to(x.dtype))


class WithAnArgument(LlamaMLP):
    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return super().forward(x) * scale


OTHERS = {
    "activation": lambda: GemmaMLP(GemmaConfig(**SIZES)),
    "bias": lambda: LlamaMLP(LlamaConfig(**SIZES, mlp_bias=True)),
    "multiplier": lambda: FalconH1MLP(FalconH1Config(**SIZES, mlp_multipliers=[2.0, 0.5])),
    "clamp": lambda: Clamped(LlamaConfig(**SIZES)),
    "order": lambda: Exchanged(LlamaConfig(**SIZES)),
    "rounding": lambda: Rounded(LlamaConfig(**SIZES)),
    "argument": lambda: WithAnArgument(LlamaConfig(**SIZES)),
}


@pytest.mark.parametrize("made", OTHERS.values(), ids=OTHERS)
def test_feed_forward_of_another_formula_stays_as_it_is(made: Callable[[], nn.Module]) -> None:
    mlp = made()
    model = nn.Sequential(mlp)
    assert fuse_swiglu(model) == 0
    assert model[0] is mlp


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_swiglu_of_llama_is_replaced_once_under_its_names(dtype: torch.dtype) -> None:
    model = nn.Sequential(LlamaMLP(LlamaConfig(**SIZES)), FalconH1MLP(FalconH1Config(**SIZES))).to(dtype)
    x, names = torch.randn(3, HIDDEN, dtype=dtype), list(model.state_dict())
    before = model(x)
    assert fuse_swiglu(model) == 2
    assert all(isinstance(module, FusedSwiGLU) for module in model)
    assert fuse_swiglu(model) == 0
    assert list(model.state_dict()) == names
    assert torch.equal(model(x), before)


def test_compiler_sees_the_plain_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph of plain operations, of which a compiler decides what is kept."""
    model = nn.Sequential(LlamaMLP(LlamaConfig(**SIZES)))
    fuse_swiglu(model)
    graphs: list[str] = []
    # DeepSpeed leaves a linear layer of its own here, in a process that has used ZeRO-3.
    monkeypatch.setattr(torch.nn.functional, "linear", torch._C._nn.linear)

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., object]:
        graphs.append(graph.print_readable(print_output=False))
        return graph.forward

    x = torch.randn(3, HIDDEN)
    compiled = torch.compile(model, backend=backend, fullgraph=True)(x)
    assert torch.equal(compiled, model(x))
    assert len(graphs) == 1
    assert "silu" in graphs[0]
    assert "autograd_function" not in graphs[0]


def test_base_on_a_cpu_keeps_its_feed_forward_layers() -> None:
    base = load_base({"source": "random", "shape": SHAPES["llama"].model_dump()}, {}, "float32")
    if base.device.type != "cpu":
        pytest.skip("this machine has a GPU, which takes the fused form")
    assert not any(isinstance(module, FusedSwiGLU) for module in base.model.modules())
    assert fuse_swiglu(base.model) == SHAPES["llama"].layers
