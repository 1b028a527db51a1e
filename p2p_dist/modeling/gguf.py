"""GGUF files, once turned into a safetensors folder in the cache, so that a worker loads in a second.

The weights are the file's, de-quantised to fp32; nothing is rounded again.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from p2p_dist.errors import UserError
from p2p_dist.model_files.folder import unpacked_gguf
from p2p_dist.model_files.weight_names import Differences
from p2p_dist.results import atomic


def unpacked(path: Path, sha256: str) -> Path:
    """A model folder with the content of a GGUF file, and no weight that the file lacks. Several workers may make it at
    once: the first one's stays.

    Raises OSError when the file is damaged, UserError E273 for weights that its architecture has no place for.
    """
    folder = unpacked_gguf(sha256)
    complete = folder / "config.json"
    if not complete.exists():
        try:
            with atomic.new_folder(folder) as unfinished:
                _convert(path, unfinished)
        except UserError:
            if not complete.exists():
                raise
    return folder


def _convert(path: Path, folder: Path) -> None:
    where: dict[str, Any] = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    model, info = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32, output_loading_info=True)
    differences = Differences.of(info)
    Differences((), differences.extra, differences.reshaped).require_none(str(path), model.config.model_type)
    drawn = set(differences.missing)  # at random; whoever loads the folder names them
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name not in drawn}
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = model.config.to_dict()
    config.pop("quantization_config", None)
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True, default=str))
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)
    os.chmod(folder, 0o755)
