"""Models with random weights: the exact shape of a real one for planning and speed, or a tiny one for tests.

Weights come from a fixed seed, so that the same shape is the same model everywhere; the tokenizer is bytes.
"""

from collections.abc import Mapping
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
)

_CLASSES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM),
    "gpt_oss": (GptOssConfig, GptOssForCausalLM),
}


def random_model(shape: Mapping[str, Any]) -> tuple[Any, PreTrainedTokenizerBase]:
    """A model of `shape` (see `p2p_dist.config.model.ShapeSpec`) in fp32 and a byte tokenizer that fits its
    vocabulary."""
    model_class, config = config_of(shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class(config)
    return model, byte_tokenizer()


def config_of(shape: Mapping[str, Any]) -> tuple[Any, Any]:
    """The class of a model of `shape`, and its configuration."""
    if shape["architecture"] == "qwen2_5_vl":
        return Qwen2_5_VLForConditionalGeneration, _with_images(shape)
    config_class, model_class = _CLASSES[shape["architecture"]]
    experts = (
        {"num_local_experts": shape["experts"], "num_experts_per_tok": shape["active_experts"]}
        if shape.get("experts")
        else {}
    )
    config = config_class(
        num_hidden_layers=shape["layers"],
        hidden_size=shape["hidden"],
        intermediate_size=shape["intermediate"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"],
        head_dim=shape["head_dim"],
        vocab_size=shape["vocab"],
        tie_word_embeddings=shape["tied_embeddings"],
        initializer_range=shape["hidden"] ** -0.5,  # so that a narrow model can say something too
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
        **experts,
    )
    return model_class, config


def _with_images(shape: Mapping[str, Any]) -> Qwen2_5_VLConfig:
    """The configuration of a Qwen2.5-VL; bytes that UTF-8 never has are the marks of an image."""
    tower, alphabet = shape["vision"], sorted(pre_tokenizers.ByteLevel.alphabet())
    start, end, image, video = (alphabet.index(char) for char in "\xfa\xfb\xfc\xfd")
    pairs = shape["head_dim"] // 2
    text = {
        "num_hidden_layers": shape["layers"],
        "hidden_size": shape["hidden"],
        "intermediate_size": shape["intermediate"],
        "num_attention_heads": shape["heads"],
        "num_key_value_heads": shape["kv_heads"],
        "vocab_size": shape["vocab"],
        "initializer_range": shape["hidden"] ** -0.5,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            # Time, height and width share the frequencies as in the published models: 16, 24 and 24 of 64.
            "mrope_section": [pairs - 2 * (3 * pairs // 8), 3 * pairs // 8, 3 * pairs // 8],
        },
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    vision = {
        "depth": tower["layers"],
        "hidden_size": tower["hidden"],
        "intermediate_size": tower["intermediate"],
        "num_heads": tower["heads"],
        "out_hidden_size": shape["hidden"],
        "fullatt_block_indexes": [
            index for index in range(tower["layers"]) if index % 8 == 7 or index == tower["layers"] - 1
        ],
        "initializer_range": tower["hidden"] ** -0.5,
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=shape["tied_embeddings"],
        vision_start_token_id=start,
        vision_end_token_id=end,
        image_token_id=image,
        video_token_id=video,
    )


END = "<|end|>"


def byte_tokenizer() -> PreTrainedTokenizerBase:
    """One token per byte of UTF-8: 256 tokens, nothing to download. 0xFF is no byte of UTF-8; its place is the end
    token's."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={END if char == "\xff" else char: index for index, char in enumerate(alphabet)}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)
