"""Tiny models of many families, made from configs in code: two to four layers, random weights, bytes as the
vocabulary."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoConfig, PretrainedConfig

from p2p_dist.config.model import resolve_model
from p2p_dist.model_files.known_types import WITH_IMAGES
from p2p_dist.modeling.pretrained import model_class
from p2p_dist.modeling.random_init import config_of
from p2p_dist.scheduling.study import configs_dir

MOST_PARAMETERS = 3_000_000
VOCABULARY = 256
_SMALL: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    "n_positions": 128,
    "ffn_dim": 48,
    "n_inner": 48,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_topk": 2,
    "moe_k": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
    "moe_shared_expert_intermediate_size": 24,
    "n_group": 1,
    "topk_group": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "qk_head_dim": 16,
    "mamba_d_state": 8,
    "mamba_d_ssm": 64,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_n_groups": 1,
    "mamba_dt_rank": 4,
    "mamba_num_heads": 8,
    "mamba_head_dim": 8,
    "state_size": 8,
    "time_step_rank": 4,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "lru_width": 32,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
    "max_window_layers": 0,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "attn_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
}
_MORE: Mapping[str, Mapping[str, Any]] = {
    "cohere": {"logit_scale": 0.25},
    "cohere2": {"logit_scale": 0.25, "num_hidden_layers": 4},
    "granite": {"logits_scaling": 4.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5},
    "granitemoe": {"logits_scaling": 4.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5},
    "gemma2": {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 8},
    "llama4_text": {"intermediate_size_mlp": 48, "attention_chunk_size": 64, "num_hidden_layers": 4},
    "lfm2": {"num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"]},
    "lfm2_moe": {"num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"], "num_dense_layers": 1},
    "qwen3_next": {"num_hidden_layers": 4},
    "qwen3_5_text": {"num_hidden_layers": 4},
    "deepseek_v2": {"first_k_dense_replace": 1, "num_key_value_heads": 4},
    "deepseek_v3": {"first_k_dense_replace": 1, "num_key_value_heads": 4},
    "deepseek_v32": {"first_k_dense_replace": 1, "num_key_value_heads": 4},
    "glm4_moe_lite": {"first_k_dense_replace": 1, "num_key_value_heads": 4},
    "minicpm3": {"num_key_value_heads": 4},
    "dots1": {"n_shared_experts": 1, "first_k_dense_replace": 1},
    "bamba": {"attn_layer_indices": [1]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "use_mamba_kernels": False},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8},
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]], "window_size": 64},
    "gptj": {"rotary_dim": 4},
    "codegen": {"rotary_dim": 4},
    "glm4_moe": {"first_k_dense_replace": 1, "n_shared_experts": 1},
}


def tiny_config(model_type: str, **changes: Any) -> PretrainedConfig:
    """A config of the family, small in every number that it has, with its own defaults elsewhere."""
    if model_type in WITH_IMAGES:
        return config_of(resolve_model("tiny_vl", configs_dir() / "models").identity["shape"])[1]
    default = AutoConfig.for_model(model_type)
    names = set(default.to_dict()) | set(getattr(default, "attribute_map", {}))
    fields = {name: value for name, value in _SMALL.items() if name in names}
    if "layer_types" in fields or getattr(default, "layer_types", None) is None:
        fields.pop("layer_types", None)
    fields |= _MORE.get(model_type, {})
    return AutoConfig.for_model(model_type, **fields | changes)


def tiny_model(config: PretrainedConfig, seed: int = 0) -> Any:
    """A model with enlarged random weights in float32, in evaluation mode. Raises ValueError for a config that is not
    tiny, before memory is taken."""
    with torch.device("meta"):
        size = sum(weight.numel() for weight in model_class(config).from_config(config).parameters())
    if size > MOST_PARAMETERS:
        raise ValueError(f"{config.model_type}: {size:,} parameters")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config).from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.dim() >= 2 and weight.std() < 0.5:
                    weight.normal_(0.0, 1.2 * weight.shape[-1] ** -0.5)
                elif "sinks" in name:
                    weight.normal_(0.0, 1.0)
    return model.requires_grad_(False)
