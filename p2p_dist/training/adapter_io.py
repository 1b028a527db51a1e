"""Adapters on disk, in PEFT's own format: `PeftModel.from_pretrained` loads them as they are."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from p2p_dist.errors import Exit, user_error
from p2p_dist.modeling.adapter_config import read_config, write_config
from p2p_dist.modeling.lora import Adapters
from p2p_dist.results import confined
from p2p_dist.results.folder_handles import Damaged
from p2p_dist.results.weight_features import WeightFeatures

_WEIGHTS = "adapter_model.safetensors"
_PREFIX, _A, _B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
_RETRAIN = "use the base and LoRA settings it was trained with"


def save_adapter(
    folder: Path, adapters: Adapters, values: torch.Tensor, base_name: str | None, revision: str | None = None
) -> None:
    """Write one run's numbers [P] and the name and revision that load the base. The same numbers give the same
    bytes."""
    tensors = {name: tensor.contiguous() for name, tensor in sorted(adapters.state_dict(values).items())}
    save_file(tensors, folder / _WEIGHTS, metadata={"format": "pt"})
    write_config(folder, adapters.spec, adapters.layers, base_name, revision)


def read_sum(folders: Sequence[Path], weights: Sequence[float], adapters: Adapters) -> torch.Tensor:
    """Numbers [P] of the adapter whose update is the weighted sum of those of others, exactly: their A matrices one
    below the other, their B matrices side by side, each times its weight and scale. `adapters` has the sum of their
    ranks. Raises UserError as `read_adapter` does."""
    tensors: dict[str, list[torch.Tensor]] = {part.name: [] for part in adapters.layout}
    scale = adapters.spec.alpha / adapters.spec.r
    for folder, weight in zip(folders, weights, strict=True):
        own, named = read_config(folder), _read_tensors(folder)
        if named.keys() != tensors.keys():
            raise _misfit(folder, "Adapter has other layers than the one that it is added to")
        for name, tensor in named.items():
            tensors[name].append(tensor.float() * (weight * own.scale / scale if name.endswith(_B) else 1.0))
    joined = {name: torch.cat(parts, dim=1 if name.endswith(_B) else 0) for name, parts in tensors.items()}
    for part in adapters.layout:
        if tuple(joined[part.name].shape) != part.shape:
            raise _misfit(folders[0], f"The ranks of {len(folders)} adapters do not add up to {adapters.spec.r}")
    return adapters.from_state_dict(joined)


def features_of(adapters: Adapters, values: torch.Tensor) -> WeightFeatures:
    """Statistics of one run's numbers [P]."""
    return features_of_tensors(adapters.state_dict(values.cpu()), adapters.spec.alpha / adapters.spec.r)


def features_of_tensors(tensors: Mapping[str, torch.Tensor], scale: float) -> WeightFeatures:
    """Statistics of matrices under PEFT's names; `scale` is alpha / r."""
    matrices = {
        name.removeprefix(_PREFIX).removesuffix(_A): (
            tensor.float().numpy(),
            tensors[name.removesuffix(_A) + _B].float().numpy(),
        )
        for name, tensor in tensors.items()
        if name.endswith(_A)
    }
    return WeightFeatures.of(matrices, scale)


def load_adapter(folder: Path, adapters: Adapters, run: int) -> None:
    """Make a saved adapter the compute copy of one run. Raises UserError as `read_adapter` does."""
    adapters.load(run, read_adapter(folder, adapters))


def read_adapter(folder: Path, adapters: Adapters) -> torch.Tensor:
    """Read a saved adapter's numbers: [P] in fp32.

    Raises UserError E285 for an unsupported variant of LoRA, E307 (integrity) when the adapter cannot be read or does
    not fit this base and these LoRA settings.
    """
    config, spec = read_config(folder), adapters.spec
    if (config.r, config.alpha) != (spec.r, spec.alpha):
        saved, given = f"r={config.r}, alpha={config.alpha:g}", f"r={spec.r}, alpha={spec.alpha:g}"
        raise _misfit(folder, f"Adapter was trained with {saved}, this job has {given}")
    tensors = _read_tensors(folder)
    shapes = {part.name: part.shape for part in adapters.layout}
    for name in shapes:
        if name not in tensors:
            raise _misfit(folder, f"Adapter is missing tensor {name}")
        if tuple(tensors[name].shape) != shapes[name]:
            raise _misfit(folder, f"Tensor {name} is {tuple(tensors[name].shape)}, this base needs {shapes[name]}")
    if extra := sorted(tensors.keys() - shapes):
        raise _misfit(folder, f"Adapter has a tensor that this base and these settings have no place for: {extra[0]}")
    return adapters.from_state_dict(tensors)


def _read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    try:
        with confined.path_to_open_file(folder / _WEIGHTS) as file:
            return load_file(file)
    except (OSError, Damaged, SafetensorError) as error:
        raise _misfit(folder, f"Cannot read the adapter's weights: {error}") from error


def _misfit(folder: Path, what: str) -> Exception:
    return user_error("E307", what, str(folder), _RETRAIN, Exit.INTEGRITY)
