"""Merged weights of an export, file by file: base + adapters, and the label map in the head.

Never more than the new tensors of one weight file of `SHARD_BYTES` are held, however the base's files are cut, and one
tensor in fp32 while it is merged; the base's files are mapped and read by tensor. PEFT's `merge_and_unload` is not
used: on tied weights it changes the input embedding together with the head.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from p2p_dist.deployment.base_files import BaseFiles
from p2p_dist.deployment.head_map import HEAD, HeadMap
from p2p_dist.errors import Exit, user_error
from p2p_dist.modeling.adapter_config import read_config

SHARD_BYTES = 4 * 10**9
"""Largest weight file of an export."""
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
        update = self.scale * b.float() @ a.float()
        return update.add_(weight)  # no second copy in fp32

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


def write_merged(
    base: BaseFiles,
    adapter: Path,
    head: HeadMap | None,
    precision: Precision,
    out: Path,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write weights and `config.json` of the merged model into the folder `out`, in files of at most `shard_bytes`
    where no single tensor is larger. Raises UserError E156 or E307."""
    adapters = [_Adapter.read(path) for path in (*base.adapters, adapter)]
    separate_head = base.tied and head is not None
    shards = _shards(_planned(base, separate_head, precision.exported), shard_bytes)
    writer, source = _Writer(out, len(shards)), _Source()
    for shard in shards:
        writer.write({one.name: _tensor(one, source, base, adapters, head, precision) for one in shard})
    for one in adapters:
        one.check()
    writer.write_index()
    _write_config(base, separate_head, precision.exported, out)


@dataclass(frozen=True)
class _Planned:
    """A tensor to write: its name, the file of the base that has it (None: the head of its own that tied weights get),
    and its bytes."""

    name: str
    source: Path | None
    size: int


def _planned(base: BaseFiles, separate_head: bool, dtype: torch.dtype) -> list[_Planned]:
    """All tensors in the order of the base's files, by their headers alone; without the head where it is the input
    embedding."""
    planned = []
    for path in base.weights:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                if not (base.tied and name.startswith(f"{HEAD}.")):
                    planned.append(_Planned(name, path, math.prod(file.get_slice(name).get_shape()) * dtype.itemsize))
    if separate_head:
        planned.append(_Planned(f"{HEAD}.weight", None, math.prod(base.head_shape()) * dtype.itemsize))
    return planned


def _shards(planned: Sequence[_Planned], most: int) -> list[list[_Planned]]:
    """Groups of tensors in their order, each of at most `most` bytes or of one tensor."""
    shards: list[list[_Planned]] = []
    size = 0
    for one in planned:
        if not shards or size + one.size > most:
            shards.append([])
            size = 0
        shards[-1].append(one)
        size += one.size
    return shards


@dataclass
class _Source:
    """The weight file of the base that is read; it is mapped once, and not before it is needed."""

    path: Path | None = None
    file: Any = None

    def tensor(self, path: Path, name: str) -> torch.Tensor:
        """A tensor as a view of the mapped file."""
        if path != self.path:
            self.path, self.file = path, safe_open(path, framework="pt")
        tensor: torch.Tensor = self.file.get_tensor(name)
        return tensor


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


def _tensor(
    planned: _Planned,
    source: _Source,
    base: BaseFiles,
    adapters: Sequence[_Adapter],
    head: HeadMap | None,
    precision: Precision,
) -> torch.Tensor:
    """A new tensor, with every adapter and the label map folded in."""
    if planned.source is None:
        assert head is not None
        return head.applied(base.head(precision.run).to(precision.exported))
    tensor = _merged(planned.name, source.tensor(planned.source, planned.name), adapters, precision)
    return head.applied(tensor) if head is not None and planned.name.startswith(f"{HEAD}.") else tensor


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
