"""Memory of passes without gradients, and of text answers with their cache."""

from types import SimpleNamespace

import pytest

from p2p_dist.config.model import ShapeSpec, read_model
from p2p_dist.config.study import LoraSpec, TrainSpec
from p2p_dist.planning.cluster import ClusterSpec
from p2p_dist.planning.inference import (
    TOKENS_AT_ONCE,
    USABLE,
    cache_tokens,
    cached_bytes,
    usual_cache_tokens,
)
from p2p_dist.planning.memory import GIB, Work
from p2p_dist.planning.placement import Misfit, Placement, place
from p2p_dist.scheduling.study import configs_dir

TEXT = 64
"""Tokens of an answer."""
LLAMA_2_7B = read_model("llama-3.1-8b", configs_dir() / "models").shape.model_copy(
    update={"kv_heads": 32, "intermediate": 11008, "vocab": 32000}
)
LLAMA_2_13B = LLAMA_2_7B.model_copy(
    update={"hidden": 5120, "layers": 40, "heads": 40, "kv_heads": 40, "intermediate": 13824}
)
QWEN3_32B = read_model("qwen3-32b", configs_dir() / "models").shape
QWEN3_06B = read_model("qwen3-0.6b", configs_dir() / "models").shape


def gpus(mebibytes: int, count: int = 1) -> ClusterSpec:
    return ClusterSpec(name="test", cpus_per_node=8, gpus_per_node=count, gpu_memory_gb=mebibytes * 2**20 / 1e9)


def work(shape: ShapeSpec, quantized: bool = False) -> Work:
    return Work(shape, LoraSpec(), 2, 1, 1, 256, quantized=quantized)


@pytest.mark.parametrize(
    ("shape", "mebibytes", "train"),
    [
        (QWEN3_32B, 24564, {"quantization": "nf4"}),
        (LLAMA_2_7B, 16384, {}),
        (LLAMA_2_13B, 32607, {}),
        (LLAMA_2_13B, 40960, {}),
    ],
    ids=["qwen3-32b-nf4", "llama-2-7b", "llama-2-13b-32", "llama-2-13b-40"],
)
def test_text_answers_fit_behind_their_training(shape: ShapeSpec, mebibytes: int, train: dict[str, str]) -> None:
    """The usual cache is larger than what these cards have left; one that fits has room for a row."""
    found = place(shape, TrainSpec(max_length=256, **train), 1, gpus(mebibytes), answer=TEXT)
    assert isinstance(found, Placement)
    assert found.memory is not None
    budget = mebibytes * 2**20
    assert found.memory.total <= USABLE * budget
    tokens = cache_tokens(work(shape, bool(train)), budget)
    assert 256 + TEXT <= tokens <= usual_cache_tokens(cached_bytes(work(shape)))
    usual = usual_cache_tokens(cached_bytes(work(shape))) * cached_bytes(work(shape))
    assert tokens * cached_bytes(work(shape)) < usual or mebibytes == 40960


def test_plan_takes_the_larger_of_training_and_answers() -> None:
    """Long rows of a small batch train in less than their answers take; without text nothing changes."""
    train = TrainSpec(max_length=32, global_batch=1)
    labels, text = (place(QWEN3_06B, train, 1, gpus(24564), answer=answer) for answer in (0, 512))
    assert isinstance(labels, Placement)
    assert isinstance(text, Placement)
    assert labels.memory is not None
    assert text.memory is not None
    assert labels.memory.cache == 0
    assert text.memory.cache == cached_bytes(work(QWEN3_06B)) * usual_cache_tokens(cached_bytes(work(QWEN3_06B)))
    assert text.memory.total > labels.memory.total


def test_row_that_does_not_fit_is_refused() -> None:
    train = TrainSpec(max_length=256, quantization="nf4")
    assert isinstance(place(QWEN3_32B, train, 1, gpus(24564)), Placement)
    refused = place(QWEN3_32B, train, 1, gpus(24564), answer=16_384)
    assert isinstance(refused, Misfit)
    assert "text answers of 16384 tokens to rows of 256 tokens" in refused.reason
    needed = float(refused.nearest.split("with ")[1].split(" GB")[0])
    roomy = gpus(1).model_copy(update={"gpu_memory_gb": needed + 1})
    assert isinstance(place(QWEN3_32B, train, 1, roomy, answer=16_384), Placement)


def test_text_answers_are_not_planned_for_zero_3() -> None:
    """Its ranks write no text: what only ZeRO-3 could train is refused before anything is trained."""
    train = TrainSpec(max_length=256)
    sharded = place(QWEN3_32B, train, 1, gpus(24564, count=8))
    assert isinstance(sharded, Placement)
    assert sharded.zero == 3
    refused = place(QWEN3_32B, train, 1, gpus(24564, count=8), answer=TEXT)
    assert isinstance(refused, Misfit)
    assert "ZeRO-3, which would share it, writes no text answers" in refused.reason


def test_cache_depends_on_whole_gibibytes_of_the_card() -> None:
    """Cards of one kind differ by some MiB, and answers may depend on the rows that stand together."""
    sizes = [cache_tokens(work(LLAMA_2_13B), bytes_) for bytes_ in (31.1 * GIB, 31.9 * GIB, 33 * GIB)]
    assert sizes[0] == sizes[1] < sizes[2] < TOKENS_AT_ONCE
    assert cache_tokens(work(LLAMA_2_13B), 141e9) == TOKENS_AT_ONCE
    assert cache_tokens(work(LLAMA_2_13B), 8e9) == 0


@pytest.mark.torch
def test_evaluation_has_the_cache_of_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the model's configuration and the card's memory, whatever is free; a CPU has the usual cache."""
    import torch
    from transformers import LlamaConfig

    from p2p_dist.evaluation.continuous_batching import tokens_at_once

    shape = LLAMA_2_13B
    config = LlamaConfig(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.intermediate,
        vocab_size=shape.vocab,
    )
    weights = {False: torch.zeros(1, dtype=torch.bfloat16), True: torch.zeros(1, dtype=torch.uint8)}
    total = 32_607 * 2**20
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=total))
    for device, quantized in (("cuda", False), ("cuda", True), ("cpu", False)):
        parameters = [weights[quantized]]
        model = SimpleNamespace(config=config, parameters=lambda parameters=parameters: iter(parameters))
        base = SimpleNamespace(model=model, dtype=torch.bfloat16, device=torch.device(device))
        planned = cache_tokens(work(shape, quantized), total)
        assert tokens_at_once(base) == (planned if device == "cuda" else TOKENS_AT_ONCE)  # type: ignore[arg-type]
