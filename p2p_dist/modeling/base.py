"""Base models: embedded asset, GGUF file, local folder, hub id, or random weights of a shape. Frozen and in one
dtype."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from p2p_dist.errors import Exit, user_error
from p2p_dist.modeling import attention
from p2p_dist.modeling.fused_norms import fuse_norms
from p2p_dist.modeling.fused_rope import fuse_rope
from p2p_dist.modeling.fused_swiglu import fuse_swiglu
from p2p_dist.modeling.guard import choose_attention
from p2p_dist.modeling.image_processor import ImageProcessor
from p2p_dist.modeling.pretrained import (
    empty_pretrained,
    load_pretrained,
    load_saved_tokenizer,
    place_of,
    processor_of,
)
from p2p_dist.modeling.prompt_form import template_of
from p2p_dist.modeling.quantize import quantize_nf4
from p2p_dist.modeling.random_init import byte_tokenizer, config_of, random_model
from p2p_dist.modeling.weight_checksum import WeightChecksum


@dataclass(frozen=True)
class Base:
    """A loaded model with its tokenizer; `model` is in evaluation mode and has no gradients."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    dtype: torch.dtype
    add_bos_token: bool = False
    """Rows begin with the tokenizer's start token."""
    name_or_path: str | None = None
    """Folder or hub id that loads the model; None for random weights."""
    revision: str | None = None
    """Commit on the hub."""
    processor: ImageProcessor | None = None
    """Image processor of a model with a vision tower."""
    weight_checksum: WeightChecksum | None = None
    """Checksum of the frozen weights at the start; None where they are not checked (ZeRO moves them)."""

    def check(self) -> None:
        """Raises UserError E316 (exit code 3, on a GPU 74) when the frozen weights are not what they were: nothing may
        be kept that such a base has made."""
        if self.weight_checksum is not None and not self.weight_checksum.holds(self.model):
            what = "the frozen weights changed while a job worked with them (bad memory, or a bug)"
            code = Exit.DEVICE if self.device.type == "cuda" else Exit.INTEGRITY
            raise user_error("E316", what, fix="run again; nothing of the job was kept", exit_code=code)


def usual_device() -> torch.device:
    """Default device of models: this process's GPU, or the CPU where there is none."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def load_base(
    identity: Mapping[str, Any],
    local: Mapping[str, str],
    dtype: str,
    quantization: str | None = None,
    on_host: bool = False,
) -> Base:
    """Load what a train stage names, onto this process's device or into the host's memory.

    Raises UserError as `load_pretrained` does, E281, and E293 as `choose_attention` does.
    """
    _prepare()
    device = torch.device("cpu") if on_host else usual_device()
    precision = resolve_dtype(dtype, usual_device())
    place, revision = (None, None) if identity["source"] == "random" else place_of(identity, local)
    if place is None:
        model, tokenizer = random_model(identity["shape"])
    else:
        # NF4 rounds layer by layer on the way to the device; everything else is read straight into its memory.
        model, tokenizer = load_pretrained(
            identity, place, revision, precision, torch.device("cpu") if quantization else device
        )
    _require_template(identity, tokenizer)
    model = model.to(dtype=precision).eval().requires_grad_(False)
    if quantization == "nf4":
        quantize_nf4(model)
    model = model.to(device=device)
    choose_attention(model, {**identity, "quantization": quantization})
    if device.type == "cuda":
        fuse_for_gpu(model)
    processor = processor_of(model, place, revision)
    return Base(model, tokenizer, device, precision, bool(identity.get("add_bos_token")), place, revision, processor)


def fuse_for_gpu(model: Any) -> None:
    """Replace parts of a model on a GPU by forms that take fewer operations and keep less, where they give the same
    numbers."""
    fuse_norms(model)
    fuse_rope(model)
    fuse_swiglu(model)


def empty_base(identity: Mapping[str, Any], local: Mapping[str, str], dtype: str) -> Base:
    """The base of a rank that is sent its part of every weight by another one: all of the model but its weights and
    buffers, which are on the meta device and take no memory. Raises UserError E119 and E301 as `place_of` does."""
    _prepare()
    precision = resolve_dtype(dtype, usual_device())
    place, revision = (None, None) if identity["source"] == "random" else place_of(identity, local)
    with torch.device("meta"):
        if place is None:
            model_class, config = config_of(identity["shape"])
            model, tokenizer = model_class(config), None
        else:
            model, tokenizer = empty_pretrained(place, revision, precision)
    model = model.to(dtype=precision).eval().requires_grad_(False)
    tokenizer = tokenizer or byte_tokenizer()
    device = torch.device("meta")
    return Base(model, tokenizer, device, precision, bool(identity.get("add_bos_token")), place, revision)


def _prepare() -> None:
    attention.register()
    transformers_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)


def load_tokenizer(identity: Mapping[str, Any], local: Mapping[str, str]) -> PreTrainedTokenizerBase:
    """The tokenizer of a model that this machine has; nothing is fetched. Raises UserError E119 where it has not."""
    tokenizer = byte_tokenizer() if identity["source"] == "random" else load_saved_tokenizer(identity, local)
    _require_template(identity, tokenizer)
    return tokenizer


def _require_template(identity: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises UserError E301 for a tokenizer whose chat template is not that of a study with chat prompts."""
    expected = identity.get("chat_template")
    template = template_of(tokenizer) if expected else None
    if expected and (template is None or template.digest != expected):
        what = "the model's chat template is not the one that was planned with"
        raise user_error("E301", what, "model", "plan the study again", Exit.INTEGRITY)


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """auto: bfloat16 on GPUs and on CPUs with bf16 instructions, else float32."""
    if dtype == "auto":
        fast = device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
