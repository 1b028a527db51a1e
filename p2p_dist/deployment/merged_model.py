"""Merged weights of an export, file by file: base + adapters, and the label map in the head.

Never more than the new tensors of one weight file are held, beside pages of the file that is read. PEFT's
`merge_and_unload` is not used: on tied weights it changes the input embedding together with the head.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from p2p_dist.deployment.base_files import BaseFiles
from p2p_dist.deployment.head_map import HEAD, HeadMap
from p2p_dist.errors import Exit, user_error
from p2p_dist.modeling.adapter_config import read_config

_PREFIX = "base_model.model."


@dataclass
class _Adapter:
    """A saved adapter: scale, and its matrices A and B by layer."""

    path: Path
    scale: float
    matrices: dict[str, tuple[torch.Tensor, torch.Tensor]]
    merged: set[str] = field(default_factory=set)
    """Layers that were met in the base's files."""

    @classmethod
    def read(cls, folder: Path) -> "_Adapter":
        named = load_file(folder / "adapter_model.safetensors")
        matrices = {
            name.removeprefix(_PREFIX).removesuffix(".lora_A.weight"): (a, named[name.replace("lora_A", "lora_B")])
            for name, a in named.items()
            if name.endswith(".lora_A.weight")
        }
        return cls(folder, read_config(folder).scale, matrices)

    def add_to(self, layer: str, weight: torch.Tensor) -> torch.Tensor:
        """W + alpha / r * B A in fp32; the weight itself where the layer has no adapter."""
        if layer not in self.matrices:
            return weight
        self.merged.add(layer)
        a, b = self.matrices[layer]
        return weight.float() + self.scale * b.float() @ a.float()

    def check(self) -> None:
        """Raises UserError E156 for matrices whose layer is in no file of the base."""
        if missing := sorted(self.matrices.keys() - self.merged):
            what = f"the base's files have no weight for {missing[0]}, which the adapter changes"
            raise user_error("E156", what, str(self.path), "set --format adapter", Exit.INTEGRITY)


@dataclass(frozen=True)
class Precision:
    """dtype in which the run computed, and dtype of the exported weights."""

    run: torch.dtype
    exported: torch.dtype


def write_merged(base: BaseFiles, adapter: Path, head: HeadMap | None, precision: Precision, out: Path) -> None:
    """Write weights and `config.json` of the merged model into the folder `out`. Raises UserError E156 or E307."""
    adapters = [_Adapter.read(path) for path in (*base.adapters, adapter)]
    separate_head = base.tied and head is not None
    writer = _Writer(out, len(base.weights) + separate_head)
    for path in base.weights:
        writer.write(_file(path, base, adapters, head, precision))
    if separate_head and head is not None:
        writer.write({f"{HEAD}.weight": head.applied(base.head(precision.run).to(precision.exported))})
    for one in adapters:
        one.check()
    writer.write_index()
    _write_config(base, separate_head, precision.exported, out)


@dataclass
class _Writer:
    """Writes `total` weight files, and the index where there are several."""

    folder: Path
    total: int
    number: int = 0
    size: int = 0
    weight_map: dict[str, str] = field(default_factory=dict)

    def write(self, tensors: dict[str, torch.Tensor]) -> None:
        self.number += 1
        name = f"model-{self.number:05d}-of-{self.total:05d}.safetensors" if self.total > 1 else "model.safetensors"
        save_weights(tensors, self.folder / name)
        self.weight_map |= dict.fromkeys(tensors, name)
        self.size += sum(tensor.nbytes for tensor in tensors.values())

    def write_index(self) -> None:
        if self.total > 1:
            index = {"metadata": {"total_size": self.size}, "weight_map": dict(sorted(self.weight_map.items()))}
            (self.folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def save_weights(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write a safetensors file that other users may read, as all files of an export; the library's are private."""
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)


def _file(
    path: Path, base: BaseFiles, adapters: Sequence[_Adapter], head: HeadMap | None, precision: Precision
) -> dict[str, torch.Tensor]:
    """The new tensors of one weight file; without the head where it is the input embedding."""
    with safe_open(path, framework="pt") as file:
        names = [name for name in file.keys() if not (base.tied and name.startswith(f"{HEAD}."))]  # noqa: SIM118
        tensors = {name: _merged(name, file.get_tensor(name), adapters, precision) for name in names}
    if head is not None:
        tensors |= {name: head.applied(tensor) for name, tensor in tensors.items() if name.startswith(f"{HEAD}.")}
    return tensors


def _merged(name: str, tensor: torch.Tensor, adapters: Sequence[_Adapter], precision: Precision) -> torch.Tensor:
    """A tensor with every adapter folded in, rounded after each as the run's own base was."""
    if not tensor.is_floating_point():
        return tensor
    rounded = tensor.to(precision.run)
    *earlier, last = adapters
    layer = name.removesuffix(".weight")
    for adapter in earlier:
        rounded = adapter.add_to(layer, rounded).to(precision.run)
    return last.add_to(layer, rounded).to(precision.exported).contiguous()


def _write_config(base: BaseFiles, separate_head: bool, dtype: torch.dtype, out: Path) -> None:
    config = dict(base.config)
    for key in ("_name_or_path", "quantization_config", "torch_dtype"):
        config.pop(key, None)
    config["dtype"] = str(dtype).removeprefix("torch.")
    if not config.get("architectures"):  # servers choose their code by it
        config["architectures"] = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config["model_type"]]]
    if separate_head:
        config["tie_word_embeddings"] = False
    (out / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def dtype_of(name: str) -> torch.dtype:
    """The dtype of a name in a result or a contract."""
    dtypes: Mapping[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    return dtypes[name]
