"""Saved models: every weight is the checkpoint's, or loading is refused with the reason.

Nothing is taken from a checkpoint but weights, settings of its architecture and its tokenizer: no code, and no
attention implementation.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from p2p_dist import assets
from p2p_dist.config.identity import digest
from p2p_dist.errors import Exit, UserError, user_error
from p2p_dist.model_files.check import check_folder
from p2p_dist.model_files.digest import file_sha256, folder_digest
from p2p_dist.model_files.hub import snapshot
from p2p_dist.model_files.known_types import WITH_IMAGES
from p2p_dist.model_files.weight_names import Differences
from p2p_dist.modeling.gguf import unpacked
from p2p_dist.modeling.image_processor import FILE, ImageProcessor

_RETRY = "check the name and the network, or download the model and name its folder"


def load_pretrained(
    identity: Mapping[str, Any], place: str, revision: str | None, dtype: torch.dtype, device: torch.device
) -> tuple[Any, PreTrainedTokenizerBase]:
    """The saved model of an identity at its place (see `place_of`), its weights read tensor by tensor onto `device` (by
    accelerate), and its tokenizer.

    Raises UserError as `check_folder` does for a folder that holds no complete model, E119 for what cannot be read,
    E276 for weights that are not finite.
    """
    patterns = identity.get("allow_missing", ())
    folder = snapshot(place, revision) if identity["source"] == "hub" else Path(place)
    if folder is not None:
        check_folder(folder, patterns)
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    with _library_errors(place):
        config = AutoConfig.from_pretrained(place, **options)
        _forget_attention(config)
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
        with _fixed_seed(device):  # for weights that may be missing
            model, info = model_class(config).from_pretrained(
                place,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                device_map={"": device},
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                **options,
            )
    Differences.of(info).without(patterns).require_none(place, config.model_type)
    _check_tokenizer(tokenizer, model, place)
    _require_finite(model, identity, place)
    return model, tokenizer


def empty_pretrained(place: str, revision: str | None, dtype: torch.dtype) -> tuple[Any, PreTrainedTokenizerBase]:
    """The saved model without its weights, and its tokenizer; the rank that loads the weights checks the folder.

    Raises UserError E119 for what cannot be read.
    """
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    with _library_errors(place):
        config = AutoConfig.from_pretrained(place, **options)
        _forget_attention(config)
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
        return model_class(config).from_config(config, dtype=dtype), tokenizer


def model_class(config: Any) -> Any:
    """The class of transformers that builds a model of this configuration."""
    return AutoModelForImageTextToText if config.model_type in WITH_IMAGES else AutoModelForCausalLM


def processor_of(model: Any, place: str | None, revision: str | None) -> ImageProcessor | None:
    """The image processor of a model at its place, CLIP's for random weights (None); None for a model without a vision
    tower. Raises UserError E119 and E275."""
    if model.config.model_type not in WITH_IMAGES:
        return None
    if place is None:
        return ImageProcessor()
    if revision is None:
        return ImageProcessor.of_folder(Path(place))
    with _library_errors(place):
        from huggingface_hub import hf_hub_download

        return ImageProcessor.of_folder(Path(hf_hub_download(place, FILE, revision=revision)).parent)


def load_saved_tokenizer(identity: Mapping[str, Any], local: Mapping[str, str]) -> PreTrainedTokenizerBase:
    """The tokenizer of a saved model that this machine has; nothing is fetched. Raises UserError E119."""
    if "asset" in local and not assets.path_of(local["asset"]).is_file():
        what = f"{local['asset']} is not on this machine"
        raise user_error("E119", what, str(assets.cache_dir()), "run the study once, which fetches it")
    place, revision = place_of(identity, local)
    try:
        with _library_errors(place):
            return AutoTokenizer.from_pretrained(
                place, revision=revision, trust_remote_code=False, local_files_only=True
            )
    except UserError as error:
        what = f"the tokenizer of {place} is not on this machine"
        raise user_error("E119", what, "model", "run the study once, or name a folder") from error


def place_of(identity: Mapping[str, Any], local: Mapping[str, str]) -> tuple[str, str | None]:
    """Folder or hub id of a model, and its commit on the hub. Raises UserError E301 when local files are not the
    identity's; a folder without a digest in its identity is taken as it is."""
    if identity["source"] == "hub":
        return identity["ref"], identity["revision"]
    if identity["source"] == "embedded":
        return str(unpacked(assets.path_of(local["asset"]), assets.ASSETS[local["asset"]].sha256)), None
    path = Path(local["path"])
    if not path.exists():
        raise user_error(
            "E119", "the model is not on this machine", str(path), "copy it there, or plan the study again"
        )
    expected = identity.get("sha256", "")
    sha256 = file_sha256(path) if identity["source"] == "gguf" else folder_digest(path) if expected else ""
    if not sha256.startswith(expected):
        what = f"the model's files are not those with sha256 {identity['sha256']}"
        raise user_error("E301", what, str(path), "plan the study again", Exit.INTEGRITY)
    if identity["source"] == "folder":
        return str(path), None
    with _library_errors(str(path)):
        return str(unpacked(path, identity["sha256"])), None


@contextmanager
def _library_errors(place: str) -> Iterator[None]:
    """Turn errors of the libraries into a UserError E119; lack of memory is no fault of the files."""
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        fix = _RETRY if isinstance(error, OSError) else "download the model again, or choose another one"
        raise user_error("E119", f"cannot load model {place}: {reason}", "model", fix) from error


@contextmanager
def _fixed_seed(device: torch.device) -> Iterator[None]:
    """Draw the same numbers at every load, and leave the process's own generators alone."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield


def _forget_attention(config: Any) -> None:
    """Leave the choice of the attention implementation to this program, in every part of a config."""
    parts = [config, *(getattr(config, name, None) for name in getattr(config, "sub_configs", {}))]
    for part in (part for part in parts if part is not None):
        part._attn_implementation_internal = None


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase, model: nn.Module, place: str) -> None:
    """Raises UserError E275 for a tokenizer without offsets, or whose text tokens have no embedding."""
    if not tokenizer.is_fast:
        what = f"tokenizer {type(tokenizer).__name__} is slow: it cannot say where a token is in its text"
        raise user_error("E275", what, place, "choose a model with a fast tokenizer (tokenizer.json)")


def _require_finite(model: nn.Module, identity: Mapping[str, Any], place: str) -> None:
    """Raises UserError E276 that names the first weight with NaN or infinity. A base is looked through once on a
    machine."""
    has_digest = "sha256" in identity or identity.get("revision") is not None
    marker = assets.cache_dir() / "finite" / digest(dict(identity)) if has_digest else None
    if marker is not None and marker.exists():
        return
    for name, weight in model.named_parameters():
        if weight.numel() and not all(bool(torch.isfinite(bound)) for bound in torch.aminmax(weight.detach())):
            what = f"weight {name} of the base holds NaN or infinity"
            raise user_error("E276", what, place, "download the model again, or choose another checkpoint")
    if marker is not None:
        with suppress(OSError):  # it is looked through again
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()
