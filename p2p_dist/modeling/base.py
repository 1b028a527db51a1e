"""Base models: embedded asset, GGUF file, local folder, hub id, or random weights of a shape. Frozen and in one
dtype."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from p2p_dist import assets
from p2p_dist.errors import Exit, user_error
from p2p_dist.modeling import attention
from p2p_dist.modeling.gguf import unpacked
from p2p_dist.modeling.quantize import quantize_nf4
from p2p_dist.modeling.random_init import byte_tokenizer, random_model
from p2p_dist.modeling.weight_checksum import WeightChecksum

_CODE_KEYS = ("auto_map", "_attn_implementation_internal")


@dataclass(frozen=True)
class Base:
    """A loaded model with its tokenizer; `model` is in evaluation mode and has no gradients."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    dtype: torch.dtype
    weight_checksum: WeightChecksum | None = None
    """Checksum of the frozen weights at the start; None where they are not checked (ZeRO moves them)."""

    def check(self) -> None:
        """Raises UserError E316 (exit code 3) when the frozen weights are not what they were: nothing may be kept that
        such a base has made."""
        if self.weight_checksum is not None and not self.weight_checksum.holds(self.model):
            what = "the frozen weights changed while a job worked with them (bad memory, or a bug)"
            raise user_error("E316", what, fix="run again; nothing of the job was kept", exit_code=Exit.INTEGRITY)


def usual_device() -> torch.device:
    """Default device of models: this process's GPU, or the CPU where there is none."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def load_base(
    identity: Mapping[str, Any], local: Mapping[str, str], dtype: str, quantization: str | None = None
) -> Base:
    """Load what a train stage names. Raises UserError E114 (code in the config), E119, E281, E301 or E208."""
    attention.register()
    transformers_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    device = usual_device()
    precision = resolve_dtype(dtype, device)
    if identity["source"] == "random":
        model, tokenizer = random_model(identity["shape"])
    else:
        # NF4 rounds layer by layer on the way to the device; everything else is read straight into its memory.
        model, tokenizer = _pretrained(identity, local, precision, torch.device("cpu") if quantization else device)
    model.set_attn_implementation(attention.NAME)
    model = model.to(dtype=precision).eval().requires_grad_(False)
    if quantization == "nf4":
        quantize_nf4(model)
    model = model.to(device=device)
    return Base(model, tokenizer, device, precision)


def load_tokenizer(identity: Mapping[str, Any], local: Mapping[str, str]) -> PreTrainedTokenizerBase:
    """The tokenizer of a model that this machine has; nothing is fetched. Raises UserError E119 where it has not."""
    if identity["source"] == "random":
        return byte_tokenizer()
    if "asset" in local and not assets.path_of(local["asset"]).is_file():
        raise user_error(
            "E119",
            f"{local['asset']} is not on this machine",
            str(assets.cache_dir()),
            "run the study once, which fetches it",
        )
    where, revision = place_of(identity, local)
    try:
        return AutoTokenizer.from_pretrained(where, revision=revision, trust_remote_code=False, local_files_only=True)
    except OSError as error:
        raise user_error(
            "E119", f"the tokenizer of {where} is not on this machine", "model", "run the study once, or name a folder"
        ) from error


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """auto: bfloat16 on GPUs and on CPUs with bf16 instructions, else float32."""
    if dtype == "auto":
        fast = device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]


def _pretrained(
    identity: Mapping[str, Any], local: Mapping[str, str], dtype: torch.dtype, device: torch.device
) -> tuple[Any, PreTrainedTokenizerBase]:
    """A saved model, its weights read tensor by tensor onto `device` (by accelerate), and its tokenizer."""
    where, revision = place_of(identity, local)
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(where, **options)
        _refuse_code(config, where)
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
        model = AutoModelForCausalLM.from_pretrained(
            where, config=config, dtype=dtype, use_safetensors=True, device_map={"": device}, **options
        )
    except OSError as error:
        fix = "check the name and the network, or download the model and name its folder"
        raise user_error("E119", f"cannot load model {where}: {str(error).splitlines()[0]}", "model", fix) from error
    return model, tokenizer


def place_of(identity: Mapping[str, Any], local: Mapping[str, str]) -> tuple[str, str | None]:
    """Folder or hub id of a saved model, and its commit on the hub. Raises UserError E301 for another GGUF file."""
    if identity["source"] == "hub":
        return identity["ref"], identity["revision"]
    if identity["source"] == "embedded":
        return str(unpacked(assets.path_of(local["asset"]), assets.ASSETS[local["asset"]].sha256)), None
    path = Path(local["path"])
    if identity["source"] == "gguf":
        if not assets.file_sha256(path).startswith(identity["sha256"]):
            raise user_error(
                "E301",
                f"the file is not the one with sha256 {identity['sha256']}",
                str(path),
                "plan the study again",
                Exit.INTEGRITY,
            )
        return str(unpacked(path, identity["sha256"])), None
    return str(path), None


def _refuse_code(config: Any, where: str) -> None:
    keys = [key for key in _CODE_KEYS if key in json.loads(config.to_json_string(use_diff=False))]
    if keys:
        raise user_error(
            "E114",
            f"{where}: its config asks to run code ({', '.join(keys)})",
            "model",
            "choose a model without custom code",
        )
