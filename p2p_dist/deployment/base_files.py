"""Files of a base model: its folder, its weight files, and its output head."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoConfig

from p2p_dist import assets
from p2p_dist.config.stages import TrainStage
from p2p_dist.errors import user_error
from p2p_dist.modeling.base_cache import BaseCache
from p2p_dist.modeling.pretrained import place_of
from p2p_dist.modeling.random_init import random_model
from p2p_dist.results import checksums
from p2p_dist.results.rundir import RunDir
from p2p_dist.training.base_model import base_of

_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]
_HEAD, _EMBEDDING = "lm_head.weight", "embed_tokens.weight"


@dataclass(frozen=True)
class BaseFiles:
    """A folder with `config.json` and safetensors files."""

    folder: Path
    adapters: tuple[Path, ...] = ()
    """Adapters that belong to the base: folded into its weights before the run's own."""

    @cached_property
    def config(self) -> dict[str, Any]:
        """Content of `config.json`."""
        content: dict[str, Any] = json.loads((self.folder / "config.json").read_bytes())
        return content

    @cached_property
    def tied(self) -> bool:
        """True if the head shares the weights of the input embedding."""
        config = AutoConfig.from_pretrained(self.folder, trust_remote_code=False)
        return bool(getattr(config, "tie_word_embeddings", False))

    @cached_property
    def weights(self) -> list[Path]:
        """Weight files in order. Raises UserError E156 when there are none."""
        index = self.folder / "model.safetensors.index.json"
        if index.is_file():
            names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        else:
            names = ["model.safetensors"]
        if missing := [name for name in names if not (self.folder / name).is_file()]:
            what = f"the base model has no weight file {missing[0]}"
            raise user_error("E156", what, str(self.folder), "download the model again, as safetensors")
        return [self.folder / name for name in names]

    def head(self, precision: torch.dtype) -> torch.Tensor:
        """Weights of the head [V, d]. Raises UserError E156 for a model without a known head."""
        path, name = self._head
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(name).to(precision)

    def head_shape(self) -> tuple[int, int]:
        """(V, d) of the head. Raises UserError E156 for a model without a known head."""
        path, name = self._head
        with safe_open(path, framework="pt") as file:
            rows, columns = file.get_slice(name).get_shape()
        return rows, columns

    @cached_property
    def _head(self) -> tuple[Path, str]:
        """File and name of the head's weights."""
        suffix = _EMBEDDING if self.tied else _HEAD
        for path in self.weights:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118
                    if name.endswith(suffix):
                        return path, name
        what = f"the base model has no tensor {suffix}"
        raise user_error("E156", what, str(self.folder), "set --label-map client")


@contextmanager
def base_files(folder: RunDir, training: TrainStage, scratch: Path) -> Iterator[BaseFiles]:
    """The files of a training's base, inside the block; `scratch` takes those that have to be made.

    A base that a defense pruned is made again as the training made it, and saved; so are random weights. Raises
    UserError as `place_of` does.
    """
    merged = () if training.reads.merged is None else (checksums.adapter(folder.at("train", training.reads.merged)),)
    if training.prune is not None:
        _save(base_of(folder, training, BaseCache(), keep=False).model, scratch)
        yield BaseFiles(scratch)
    elif training.model["source"] == "random":
        _save(random_model(training.model["shape"])[0], scratch)  # type: ignore[arg-type]
        yield BaseFiles(scratch, merged)
    else:
        yield BaseFiles(_downloaded(training), merged)


def _save(model: Any, folder: Path) -> None:
    """Save a model in one file. Its own method would import accelerate, and deepspeed with it: half a minute."""
    folder.mkdir()
    tied = model.config.tie_word_embeddings
    tensors = {name: weight.contiguous() for name, weight in model.state_dict().items() if not (tied and name == _HEAD)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(model.config.to_json_string())


def _downloaded(training: TrainStage) -> Path:
    local = training.local.model
    if "asset" in local:
        assets.fetch(local["asset"])
    place, revision = place_of(training.model, local)
    if revision is None:
        return Path(place)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(place, revision=revision, allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        what = f"cannot fetch the weights of {place}: {str(error).splitlines()[0]}"
        raise user_error("E119", what, "model", "check the network, or run where the study ran") from error
