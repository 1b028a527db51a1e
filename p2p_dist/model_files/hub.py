"""Snapshots of hub models in the local cache, found without network."""

from pathlib import Path

from p2p_dist.errors import UserError
from p2p_dist.model_files.folder import weight_files


def snapshot(ref: str, revision: str | None) -> Path | None:
    """Folder of a commit in the hub's cache when it has a config and all of its weights; else None."""
    if (config := config_file(ref, revision)) is None:
        return None
    try:
        weight_files(config.parent)
    except UserError:
        return None
    return config.parent


def config_file(ref: str, revision: str | None) -> Path | None:
    """The config.json of a commit in the hub's cache, with its weights or without them; None where it is not there."""
    if revision is None:
        return None
    from huggingface_hub import constants  # takes 0.1 s, and most models are local

    file = Path(constants.HF_HUB_CACHE) / f"models--{ref.replace('/', '--')}" / "snapshots" / revision / "config.json"
    return file if file.is_file() else None
