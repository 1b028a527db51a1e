"""Modes in which the rows of a study's models are computed, read from config.json when the study is planned."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from p2p_dist.config.families import describe_mode
from p2p_dist.config.model import ModelRef


def row_modes(models: Sequence[ModelRef], max_length: int) -> dict[str, str]:
    """Mode of rows of up to `max_length` tokens by the model's name, for models whose config.json is here."""
    configs = {model.name: _config(model) for model in models}
    return {name: describe_mode(config, max_length) for name, config in configs.items() if config is not None}


def _config(model: ModelRef) -> Mapping[str, Any] | None:
    """The model's config.json; None where it is not here. Shipped and random models are Llama and Qwen3."""
    match model.identity["source"]:
        case "folder":
            file = Path(model.local["path"]) / "config.json"
        case "hub":
            from huggingface_hub import try_to_load_from_cache  # takes 0.1 s, and most models are local

            cached = try_to_load_from_cache(
                model.identity["ref"], "config.json", revision=model.identity.get("revision")
            )
            if not isinstance(cached, str):
                return None
            file = Path(cached)
        case _:
            return None
    try:
        config = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) else None
