"""Adapters on disk, in PEFT's own format: `PeftModel.from_pretrained` loads them as they are."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from p2p_dist.config.study import LoraSpec
from p2p_dist.errors import Exit, user_error
from p2p_dist.modeling.lora import Adapters

_WEIGHTS = "adapter_model.safetensors"
_CONFIG = "adapter_config.json"


def save_adapter(folder: Path, adapters: Adapters, values: torch.Tensor, base_name: str) -> None:
    """Write one run's numbers [P]. The same numbers give the same bytes."""
    tensors = {name: tensor.contiguous() for name, tensor in sorted(adapters.tensors(values).items())}
    save_file(tensors, folder / _WEIGHTS, metadata={"format": "pt"})
    config = adapter_config(adapters.spec, sorted(adapters.layers), base_name)
    (folder / _CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def load_adapter(folder: Path, adapters: Adapters, run: int) -> None:
    """Make a saved adapter the compute copy of one run. Raises UserError E307 when it does not fit this base."""
    adapters.load(run, read_adapter(folder, adapters))


def read_adapter(folder: Path, adapters: Adapters) -> torch.Tensor:
    """A saved adapter's numbers, [P] in fp32. Raises UserError E307 when they do not fit this base."""
    named = load_file(folder / _WEIGHTS)
    try:
        values = adapters.flatten(named)
    except KeyError as error:
        raise user_error(
            "E307",
            f"the adapter has no {error}",
            str(folder),
            "the base and LoRA settings it was trained with",
            Exit.INTEGRITY,
        ) from error
    if values.numel() != adapters.size:
        raise user_error(
            "E307",
            f"the adapter has {values.numel()} numbers, this base needs {adapters.size}",
            str(folder),
            exit_code=Exit.INTEGRITY,
        )
    return values


def adapter_config(spec: LoraSpec, layers: list[str], base_name: str) -> dict[str, object]:
    """The fields of PEFT's LoraConfig that differ from its defaults."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": spec.r,
        "lora_alpha": spec.alpha,
        "lora_dropout": spec.dropout,
        "target_modules": sorted({layer.rpartition(".")[2] for layer in layers}),
        "bias": "none",
        "inference_mode": True,
    }
