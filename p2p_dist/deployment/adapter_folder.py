"""Adapter of an export: the run's own in PEFT's format, with one more target where the label map is in the head."""

import json
from pathlib import Path

from safetensors.torch import load_file

from p2p_dist.config.stages import TrainStage
from p2p_dist.deployment.base_files import BaseFiles
from p2p_dist.deployment.head_map import HEAD, HeadMap
from p2p_dist.deployment.merged_model import dtype_of, save_weights
from p2p_dist.modeling.adapter_config import FILE, read_config

WEIGHTS = "adapter_model.safetensors"


def write_adapter(
    base: BaseFiles, training: TrainStage, adapter: Path, head: HeadMap | None, dtype: str, out: Path
) -> None:
    """Write the adapter into the folder `out`. Raises UserError E154 when its rank is too small for the label map."""
    config = json.loads((adapter / FILE).read_bytes())
    tensors = load_file(adapter / WEIGHTS)
    if head is not None:
        settings = read_config(adapter)
        a, b = head.lora(base.head(dtype_of(dtype)), settings.r, settings.scale)
        tensors |= {f"base_model.model.{HEAD}.lora_A.weight": a, f"base_model.model.{HEAD}.lora_B.weight": b}
        config["target_modules"] = sorted([*config["target_modules"], HEAD])
    on_hub = training.model["source"] == "hub"
    config["base_model_name_or_path"] = training.model["ref"] if on_hub else str(base.folder)
    if on_hub:
        config["revision"] = training.model["revision"]
    save_weights(tensors, out / WEIGHTS)
    (out / FILE).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
