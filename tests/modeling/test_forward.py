"""Packing changes where tokens lie, never what is computed; adapters are PEFT's."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from p2p_dist.config.model import resolve_model
from p2p_dist.config.study import LoraSpec
from p2p_dist.errors import UserError
from p2p_dist.modeling.attention import packed_attention
from p2p_dist.modeling.base import Base, load_base
from p2p_dist.modeling.forward import answer_logits
from p2p_dist.modeling.gradient_checkpointing import gradient_checkpointing
from p2p_dist.modeling.lora import Adapters
from p2p_dist.modeling.lora_targets import target_names
from p2p_dist.modeling.packing import pack
from p2p_dist.modeling.random_init import random_model
from p2p_dist.modeling.tokenization import Encoded
from p2p_dist.scheduling.study import configs_dir
from p2p_dist.training.adapter_io import load_adapter, save_adapter
from tests.zoo.check import tiny_base

IDENTITY = resolve_model("tiny", configs_dir() / "models").identity
LLAMA = {**IDENTITY, "shape": {**IDENTITY["shape"], "architecture": "llama"}}
ROWS = [
    Encoded(str(n), [(7 * n + 3 * at) % 256 for at in range(length)], [n]) for n, length in enumerate([5, 19, 1, 33, 8])
]


def base(identity: object = IDENTITY) -> Base:
    return load_base(identity, {}, "float32")  # type: ignore[arg-type]


def packed_logits(model: object, runs: list[list[Encoded]]) -> torch.Tensor:
    batch = pack(runs)
    return answer_logits(model, batch.ids, batch.positions, batch.packed, batch.answers).detach()


@pytest.mark.parametrize("identity", [IDENTITY, LLAMA], ids=["qwen3", "llama"])
def test_packed_rows_give_the_logits_of_rows_alone(identity: dict[str, object]) -> None:
    plain = random_model(identity["shape"])[0].eval()  # type: ignore[arg-type]
    expected = torch.stack([plain(torch.tensor([row.ids])).logits[0, -1] for row in ROWS])
    torch.testing.assert_close(packed_logits(base(identity).model, [ROWS]), expected, atol=1e-5, rtol=1e-5)


def test_runs_of_a_cohort_do_not_meet() -> None:
    loaded = base()
    adapters = Adapters(loaded.model, LoraSpec(r=4), 2)
    for run in range(2):
        adapters.load(run, torch.randn(adapters.size, generator=torch.Generator().manual_seed(run)))
    together = packed_logits(loaded.model, [ROWS[:2], ROWS[2:]])
    alone = []
    for run, rows in enumerate([ROWS[:2], ROWS[2:]]):
        adapters.select_runs(slice(run, run + 1))
        alone.append(packed_logits(loaded.model, [rows]))
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_peft_loads_our_adapter_and_says_the_same(tmp_path: Path) -> None:
    loaded = base()
    adapters = Adapters(loaded.model, LoraSpec(r=4, alpha=8), 1)
    values = torch.randn(adapters.size, generator=torch.Generator().manual_seed(1)) * 0.3
    save_adapter(tmp_path, adapters, values, "tiny")
    load_adapter(tmp_path, adapters, 0)
    ours = packed_logits(loaded.model, [ROWS])
    theirs = PeftModel.from_pretrained(random_model(IDENTITY["shape"])[0], tmp_path).eval()
    expected = torch.stack([theirs(torch.tensor([row.ids])).logits[0, -1] for row in ROWS])
    torch.testing.assert_close(ours, expected.detach(), atol=1e-5, rtol=1e-5)


def test_the_same_numbers_give_the_same_bytes(tmp_path: Path) -> None:
    adapters = Adapters(base().model, LoraSpec(r=4), 1)
    for name in "ab":
        (tmp_path / name).mkdir()
        save_adapter(tmp_path / name, adapters, torch.arange(adapters.size) / 7, "tiny")
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert json.loads((tmp_path / "a" / "adapter_config.json").read_text())["target_modules"] == sorted(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )


def test_an_adapter_of_another_shape_is_refused(tmp_path: Path) -> None:
    small, large = Adapters(base().model, LoraSpec(r=2), 1), Adapters(base().model, LoraSpec(r=4), 1)
    save_adapter(tmp_path, small, torch.zeros(small.size), "tiny")
    with pytest.raises(ValueError, match="E307"):
        load_adapter(tmp_path, large, 0)


def test_named_targets() -> None:
    model = base().model
    assert len(target_names(model, LoraSpec())) == 14
    assert len(target_names(model, LoraSpec(target_modules=("q_proj", "v_proj")))) == 4
    with pytest.raises(UserError, match=r"E295.*query.*q_proj"):
        target_names(model, LoraSpec(target_modules=("query",)))


def test_only_adapters_are_trained() -> None:
    loaded = base()
    adapters = Adapters(loaded.model, LoraSpec(r=2), 1)
    assert not any(weight.requires_grad for weight in loaded.model.parameters())
    matrices = [matrix for layer in adapters.layers.values() for matrix in (layer.lora_a, layer.lora_b)]
    assert all(matrix.requires_grad for matrix in matrices)
    assert sum(matrix.numel() for matrix in matrices) == adapters.size


def test_a_random_model_is_the_same_model_everywhere() -> None:
    one, two = random_model(IDENTITY["shape"])[0], random_model(IDENTITY["shape"])[0]
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize(
    ("argument", "setting"),
    [("position_bias", torch.zeros(1)), ("dropout", 0.1), ("is_causal", False), ("indices", [1])],
)
def test_packed_attention_refuses_unknown_arguments(argument: str, setting: object) -> None:
    """A kernel that leaves out what it is told computes another model."""
    batch = pack([ROWS])
    states = torch.zeros(1, 1, batch.ids.shape[1], 4)
    with pytest.raises(UserError, match=f"E292.*Identity.*{argument}"):
        packed_attention(torch.nn.Identity(), states, states, states, None, packed=batch.packed, **{argument: setting})


def test_row_without_position_embeddings_is_refused() -> None:
    """GPT-2 has one embedding per position and none behind the last."""
    base = tiny_base("gpt2", n_positions=16, max_position_embeddings=16)
    with pytest.raises(UserError, match=r"E294.*33 tokens.*16.*gpt2"):
        packed_logits(base.model, [ROWS])


def test_row_longer_than_a_chunk_is_refused() -> None:
    """Llama 4 attends in chunks, which packed rows do not see."""
    base = tiny_base("llama4_text", attention_chunk_size=32)
    packed_logits(base.model, [ROWS[:3]])
    with pytest.raises(UserError, match=r"E294.*33 tokens.*32.*llama4"):
        packed_logits(base.model, [ROWS])


def test_target_names_without_linear_layers_are_refused() -> None:
    """A model without a linear layer has nothing to adapt."""
    with pytest.raises(UserError, match="E295"):
        target_names(torch.nn.Sequential(torch.nn.Embedding(2, 2)), LoraSpec())


def test_dropout_of_rows_alone_is_that_of_packed_rows() -> None:
    """Row by row, every token keeps the mask that was drawn for it."""
    base = tiny_base("llama")
    adapters = Adapters(base.model, LoraSpec(r=4, dropout=0.5), 1)
    adapters.load(0, torch.randn(adapters.size, generator=torch.Generator().manual_seed(1)) * 0.3)
    batch = pack([ROWS])
    masks = adapters.draw_dropout([batch.tokens[0]], [torch.Generator().manual_seed(2)])
    adapters.use_dropout(masks, [torch.arange(batch.tokens[0])], batch.ids.shape[1])
    packed = packed_logits(base.model, [ROWS])
    base.model.set_attn_implementation("sdpa")
    torch.testing.assert_close(packed_logits(base.model, [ROWS]), packed, atol=1e-5, rtol=1e-5)


def test_gradient_checkpointing_row_by_row_keeps_the_gradient() -> None:
    """Layers that are computed twice meet the same tokens and dropout masks the second time."""
    base = tiny_base("lfm2")
    adapters = Adapters(base.model, LoraSpec(r=4, dropout=0.5), 1)
    adapters.load(0, torch.randn(adapters.size, generator=torch.Generator().manual_seed(1)) * 0.3)
    batch = pack([ROWS])
    masks = adapters.draw_dropout([batch.tokens[0]], [torch.Generator().manual_seed(2)])
    adapters.use_dropout(masks, [torch.arange(batch.tokens[0])], batch.ids.shape[1])
    gradients = []
    for enabled in (False, True):
        adapters.flat_grads.zero_()
        with gradient_checkpointing(base.model, enabled):
            answer_logits(base.model, batch.ids, batch.positions, batch.packed, batch.answers).sum().backward()
        gradients.append(adapters.flat_grads.clone())
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=1e-6)
