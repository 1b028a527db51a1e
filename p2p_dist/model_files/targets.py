"""Layers that a study adapts, compared with the weights of the checkpoint."""

from collections.abc import Collection

from p2p_dist.errors import user_error
from p2p_dist.model_files.folder import ModelFolder
from p2p_dist.model_files.weight_names import FAMILIES


def check_targets(folder: ModelFolder, targets: Collection[str]) -> None:
    """Raises UserError E277 for names of layers that no weight of the checkpoint belongs to.

    Families that transformers gives other names while it loads them are judged by the worker.
    """
    if folder.model_type not in FAMILIES:
        return
    matrices = (
        name.split(".") for name, info in folder.tensors.items() if len(info.shape) == 2 and ".layers." in f".{name}"
    )
    layers = {parts[-2] for parts in matrices if parts[-1] == "weight"}
    if missing := sorted(set(targets) - layers):
        what = f"{', '.join(missing)}: no such linear layer in {folder.path}"
        raise user_error("E277", what, "train.lora.target_modules", f"use all-linear, or some of {sorted(layers)}")
