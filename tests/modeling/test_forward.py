"""Packing changes where tokens lie, never what is computed; adapters are PEFT's."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from p2p_dist.config.model import resolve_model
from p2p_dist.config.study import LoraSpec
from p2p_dist.modeling.base import Base, load_base
from p2p_dist.modeling.forward import answer_logits
from p2p_dist.modeling.lora import Adapters, target_names
from p2p_dist.modeling.packing import pack
from p2p_dist.modeling.random_init import random_model
from p2p_dist.modeling.tokenization import Encoded
from p2p_dist.scheduling.study import configs_dir
from p2p_dist.training.adapter_io import load_adapter, save_adapter

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
    with pytest.raises(ValueError, match="query"):
        target_names(model, LoraSpec(target_modules=("query",)))


def test_only_adapters_are_trained() -> None:
    loaded = base()
    adapters = Adapters(loaded.model, LoraSpec(r=2), 1)
    trainable = sum(p.numel() for p in loaded.model.parameters() if p.requires_grad)
    assert trainable == adapters.size


def test_a_random_model_is_the_same_model_everywhere() -> None:
    one, two = random_model(IDENTITY["shape"])[0], random_model(IDENTITY["shape"])[0]
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_a_window_shorter_than_a_row_is_refused() -> None:
    from p2p_dist.modeling.attention import packed_attention

    batch = pack([ROWS])
    states = torch.zeros(1, 1, batch.ids.shape[1], 4)
    with pytest.raises(ValueError, match="attention window"):
        packed_attention(torch.nn.Identity(), states, states, states, None, packed=batch.packed, sliding_window=8)
