"""Families are told apart by config.json: packed, row by row, and how long rows may be."""

from typing import Any

import pytest

from p2p_dist.config.families import describe_mode, mode_of, position_limit, rope_limit, row_limit


@pytest.mark.parametrize(
    ("config", "mode", "description"),
    [
        ({"model_type": "llama"}, "packed", "packed"),
        ({"model_type": "lfm2"}, "row by row", "row by row (lfm2 mixes rows in convolutions or recurrent states)"),
        ({"model_type": "xglm"}, "row by row", "row by row (xglm has attention of its own)"),
        ({"model_type": "new"}, None, "packed or row by row (new is checked when the model is loaded)"),
        ({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}}, "packed", "packed"),
    ],
)
def test_mode_of_a_config(config: dict[str, Any], mode: str | None, description: str) -> None:
    assert mode_of(config) == mode
    assert describe_mode(config, 128) == description


def test_describe_mode_past_the_rope_of_pretraining() -> None:
    """Longer rows are computed one by one."""
    config = {"model_type": "llama", "rope_scaling": {"type": "dynamic"}, "max_position_embeddings": 128}
    assert describe_mode(config, 128) == "packed"
    assert describe_mode(config, 129).startswith("packed, and row by row past 128 tokens")


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        ({"model_type": "llama", "max_position_embeddings": 8}, None),
        ({"model_type": "gpt2", "n_positions": 1024}, 1024),
        ({"model_type": "mistral", "sliding_window": 4096}, None),
        ({"model_type": "new", "sliding_window": 4096}, 4096),
        ({"model_type": "new", "sliding_window": 4096, "use_sliding_window": False}, None),
        ({"model_type": "new", "sliding_window": 4096, "layer_types": ["full_attention"]}, None),
        ({"model_type": "llama4_text", "attention_chunk_size": 8192}, 8192),
        ({"model_type": "recurrent_gemma", "sliding_window": 2048}, None),
    ],
)
def test_row_limit_of_a_config(config: dict[str, Any], tokens: int | None) -> None:
    limit = row_limit(config)
    assert (limit.tokens if limit else None) == tokens
    if config["model_type"] != "gpt2":
        assert position_limit(config) is None


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        ({"rope_parameters": {"rope_type": "default"}, "max_position_embeddings": 8}, None),
        ({"rope_parameters": {"rope_type": "llama3", "original_max_position_embeddings": 8}}, None),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position_embeddings": 2048}, 2048),
        ({"rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 4096}, 4096),
        (
            {
                "rope_parameters": {"rope_type": "longrope", "original_max_position_embeddings": 4096},
                "max_position_embeddings": 131072,
            },
            4096,
        ),
        ({"rope_parameters": {"full_attention": {"rope_type": "dynamic"}}, "max_position_embeddings": 64}, 64),
    ],
)
def test_rope_limit_of_a_config(config: dict[str, Any], tokens: int | None) -> None:
    assert rope_limit({"model_type": "phi3", **config}) == tokens
