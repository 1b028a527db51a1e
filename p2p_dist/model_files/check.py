"""Checks of a model folder before anything is loaded. A planner and a worker call the same ones, so that both say the
same."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from p2p_dist import registry
from p2p_dist.errors import user_error
from p2p_dist.model_files.folder import ModelFolder, read_config, read_tensors
from p2p_dist.model_files.known_types import WITH_IMAGES, all_types, causal_types
from p2p_dist.model_files.tokenizer_files import check_tokenizer
from p2p_dist.model_files.weight_names import compare

_ENCODERS = {"bert", "roberta", "xlm-roberta", "camembert", "electra", "data2vec-text", "roformer", "xlm"}
"""Types that load as language models, but whose attention reads the words behind a token too."""
_MODALITIES = ("vision_config", "audio_config", "speech_config", "vision_tower")
_FLOATS = {"F64", "F32", "F16", "BF16"}
_INTEGER_PACKED = re.compile(r"\.(qweight|qzeros|weight_packed|weight_scale|weight_scale_inv|scales|SCB|absmax)$")


def check_folder(path: Path, allow_missing: Collection[str] = ()) -> ModelFolder:
    """Read and check a model folder. `allow_missing` are patterns of weights that may be missing or in no place.

    Raises UserError E114 (code), E271 (no text model), E272 (weight files), E273 (weights that do not belong to the
    architecture), E274 (quantised) or E275 (tokenizer).
    """
    config = check_config(path)
    folder = ModelFolder(path, config, read_tensors(path))
    _check_types(folder)
    compare(config, folder.tensors).without(allow_missing).require_none(str(path), folder.model_type)
    check_tokenizer(folder)
    return folder


def check_config(path: Path) -> Mapping[str, Any]:
    """Read and check config.json alone. Raises UserError E114, E271 or E274."""
    config = read_config(path)
    _check_code(config, path)
    _check_architecture(config, path)
    if quantization := config.get("quantization_config") or config.get("compression_config"):
        method = quantization.get("quant_method", "unknown method") if isinstance(quantization, dict) else quantization
        raise _quantised(path, f"config.json has a quantization_config ({method})")
    return config


def _check_code(config: Mapping[str, Any], path: Path) -> None:
    """Refuse what would fetch or run code: `auto_map`, and an attention implementation of a hub."""
    asks = ["auto_map"] if "auto_map" in config else []
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    for key in (
        "attn_implementation",
        "_attn_implementation",
        "_attn_implementation_internal",
        "experts_implementation",
    ):
        values = [str(part[key]) for part in parts if part.get(key)]
        asks += [f"{key}: {value}" for value in values if "/" in value]
    if asks:
        what = f"config asks to run code ({', '.join(asks)})"
        raise user_error("E114", what, str(path / "config.json"), "choose a model without custom code")


def _check_architecture(config: Mapping[str, Any], path: Path) -> None:
    where, model_type = str(path / "config.json"), config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise user_error(
            "E271", "config.json has no model_type", where, "use the config.json of the model's own folder"
        )
    if model_type in WITH_IMAGES:
        return
    if modality := next((key for key in _MODALITIES if config.get(key)), None):
        what = f"model {model_type} is not for text alone: config.json has a {modality}"
        raise user_error("E271", what, where, "choose the text model of the same series")
    if "transformers_weights" in config:
        what = "config.json names a weight file of its own (transformers_weights)"
        raise user_error("E271", what, where, "name the file model.safetensors and remove the key")
    if not causal_types() or model_type in causal_types() - _ENCODERS:
        return
    if model_type in all_types():
        what = f"model {model_type} is no causal language model"
        raise user_error("E271", what, where, "choose a decoder such as llama, qwen3 or gemma3_text")
    what = f"unknown model_type {model_type!r}{registry.suggest(model_type, sorted(causal_types()))}"
    raise user_error("E271", what, where, "choose another model, or install a version of transformers that has it")


def _check_types(folder: ModelFolder) -> None:
    """Refuse tensors that only a quantiser's own code can read."""
    for name, info in folder.tensors.items():
        packed = name.endswith(".weight") and info.dtype not in _FLOATS
        if packed or _INTEGER_PACKED.search(name):
            raise _quantised(folder.path, f"{name} is stored as {info.dtype}")


def _quantised(path: Path, reason: str) -> Exception:
    fix = "choose the checkpoint in bfloat16; train.quantization=nf4 quantises that when it is loaded"
    return user_error("E274", f"weights were quantised by another program: {reason}", str(path), fix)
