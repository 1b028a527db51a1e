"""Less memory, the same numbers: losses in pieces, and layers computed twice."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from p2p_dist.config.model import resolve_model
from p2p_dist.config.study import LoraSpec
from p2p_dist.modeling.base import load_base
from p2p_dist.modeling.forward import answer_logits, losses_of_states
from p2p_dist.modeling.gradient_checkpointing import gradient_checkpointing
from p2p_dist.modeling.lora import Adapters
from p2p_dist.modeling.packing import pack
from p2p_dist.modeling.tokenization import Encoded
from p2p_dist.scheduling.study import configs_dir

IDENTITY = resolve_model("tiny", configs_dir() / "models").identity
ROWS = [
    Encoded(str(n), [(7 * n + 3 * at) % 256 for at in range(length)], [n, n + 1, n + 2])
    for n, length in enumerate([5, 19, 33, 8])
]


def model_with(head: torch.Tensor) -> LlamaForCausalLM:
    """A model whose output head is `head` [V, d]."""
    words, width = head.shape
    config = LlamaConfig(
        vocab_size=words, hidden_size=width, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    model = LlamaForCausalLM(config).to(head.dtype).requires_grad_(False)
    model.lm_head.weight.copy_(head)
    return model


def loss_and_gradient(
    states: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, at_once: int
) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = states.clone().requires_grad_()
    losses = losses_of_states(model_with(head), leaf, targets, at_once)
    (losses * torch.linspace(0.5, 1.5, len(losses))).sum().backward()
    assert leaf.grad is not None
    return losses.detach(), leaf.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("at_once", [1, 7, 64, 100])
def test_pieces_are_the_whole(dtype: torch.dtype, at_once: int) -> None:
    draw = torch.Generator().manual_seed(0)
    states, head = torch.randn(64, 16, generator=draw).to(dtype), torch.randn(300, 16, generator=draw).to(dtype)
    targets = torch.randint(0, 300, (64,), generator=draw)
    whole, gradient = loss_and_gradient(states, head, targets, 1000)
    pieces, of_pieces = loss_and_gradient(states, head, targets, at_once)
    tolerance = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 2e-2, "rtol": 2e-2}
    torch.testing.assert_close(pieces, whole, **tolerance)
    torch.testing.assert_close(of_pieces, gradient, **tolerance)


def test_logits_of_all_positions_are_never_held() -> None:
    """What autograd keeps between forward and backward: states and targets, not the logits."""
    kept: list[int] = []
    states = torch.randn(64, 16, requires_grad=True)

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        losses_of_states(model_with(torch.randn(300, 16)), states, torch.zeros(64, dtype=torch.long), at_once=8)
    assert max(kept, default=0) <= 300 * 16


def test_gradient_checkpointing_keeps_every_bit_of_the_gradient() -> None:
    loaded = load_base(IDENTITY, {}, "float32")
    adapters = Adapters(loaded.model, LoraSpec(r=4), 1)
    adapters.load(0, torch.randn(adapters.size, generator=torch.Generator().manual_seed(1)) * 0.3)
    batch = pack([ROWS])
    found, kept = [], []
    for wanted in (False, True):
        sizes: list[int] = []

        def note(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        adapters.flat_grads.zero_()
        with gradient_checkpointing(loaded.model, wanted):
            with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                logits = answer_logits(loaded.model, batch.ids, batch.positions, batch.packed, batch.answers)
            logits.square().sum().backward()
        found.append(adapters.flat_grads.clone())
        kept.append(sum(sizes))
    assert torch.equal(*found)
    assert found[0].abs().sum() > 0
    assert kept[1] < kept[0] / 3
    assert not any("forward" in vars(layer) for layer in loaded.model.model.layers), "nothing is left behind"
