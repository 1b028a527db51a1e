"""Snapshots of hub models in the local cache, found without network."""

from pathlib import Path

from p2p_dist.errors import UserError
from p2p_dist.model_files.folder import weight_files


def snapshot(ref: str, revision: str | None) -> Path | None:
    """Folder of a commit in the hub's cache when it has a config and all of its weights; else None."""
    if revision is None:
        return None
    from huggingface_hub import constants  # takes 0.1 s, and most models are local

    folder = Path(constants.HF_HUB_CACHE) / f"models--{ref.replace('/', '--')}" / "snapshots" / revision
    if not (folder / "config.json").is_file():
        return None
    try:
        weight_files(folder)
    except UserError:
        return None
    return folder
