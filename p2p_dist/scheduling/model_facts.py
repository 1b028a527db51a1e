"""Facts of models that a plan needs and that are known without loading one: from shapes, or from a config.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from p2p_dist.config.families import layer_count, text_config
from p2p_dist.config.model import ModelRef
from p2p_dist.errors import UserError
from p2p_dist.model_files.folder import read_json
from p2p_dist.model_files.hub import config_file, snapshot
from p2p_dist.model_files.known_types import WITH_IMAGES


def folder_of(model: ModelRef) -> Path | None:
    """Folder of a model whose files are here: its own, or a complete one in the hub's cache."""
    if model.identity["source"] == "folder":
        return Path(model.local["path"])
    if model.identity["source"] == "hub":
        return snapshot(model.identity["ref"], model.identity["revision"])
    return None


def config_of(model: ModelRef) -> Mapping[str, Any] | None:
    """The model's config.json, with its weights or without them; None where it is not here or cannot be read. Shipped
    and random models, and GGUF files, have none."""
    if model.identity["source"] == "folder":
        file: Path | None = Path(model.local["path"]) / "config.json"
    elif model.identity["source"] == "hub":
        file = config_file(model.identity["ref"], model.identity.get("revision"))
    else:
        file = None
    try:
        return read_json(file) if file is not None else None
    except (OSError, UserError):
        return None  # the check of the model's files says so


def reads_images(model: ModelRef) -> bool | None:
    """True for a model with a vision tower; None where neither its shape nor its config.json is here."""
    if model.shape is not None:
        return model.shape.vision is not None
    if (config := config_of(model)) is not None:
        return config.get("model_type") in WITH_IMAGES
    return None if model.identity["source"] in ("hub", "folder") else False


def layers_of(model: ModelRef) -> int | None:
    """Number of decoder layers; None where neither the model's shape nor its config.json is here."""
    if model.shape is not None:
        return model.shape.layers
    config = config_of(model)
    return layer_count(config) if config is not None else None


def positions_of(model: ModelRef) -> int | None:
    """Longest row of a model by its config.json; None where that is not known."""
    config = text_config(config_of(model) or {})
    longest = config.get("max_position_embeddings", config.get("n_positions"))
    return longest if isinstance(longest, int) and longest > 0 else None
