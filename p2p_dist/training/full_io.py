"""A model trained in all weights on disk: safetensors files in the precision it computed in, and its `config.json`.

`AutoModelForCausalLM.from_pretrained` loads the folder; the tokenizer is the base's.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from p2p_dist.errors import Exit, user_error
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.full_weights import FullWeights, WeightView
from p2p_dist.results import confined, jsonfile
from p2p_dist.results.folder_handles import Damaged

FILE_BYTES = 4_000_000_000
"""Size of a file of weights; one tensor alone may be larger."""
_INDEX, _ONE = "model.safetensors.index.json", "model.safetensors"


def save_model(folder: Path, base: Base, weights: FullWeights, values: torch.Tensor) -> None:
    """Write weights, [P] in fp32, in the base's precision. The same weights give the same bytes."""
    groups = list(_groups(weights.layout, base.dtype.itemsize))
    names: dict[str, str] = {}
    for number, views in enumerate(groups, 1):
        file = _ONE if len(groups) == 1 else f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        tensors = {
            view.name: values[view.start : view.stop].view(view.shape).to(base.dtype).contiguous() for view in views
        }
        save_file(tensors, folder / file, metadata={"format": "pt"})
        names |= dict.fromkeys(tensors, file)
    if len(groups) > 1:
        size = {"total_size": weights.size * base.dtype.itemsize}
        (folder / _INDEX).write_text(json.dumps({"metadata": size, "weight_map": names}, indent=1) + "\n")
    config = base.model.config.to_dict()
    config |= {"architectures": [type(base.model).__name__], "dtype": str(base.dtype).removeprefix("torch.")}
    config.pop("_name_or_path", None)
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True, default=str) + "\n")


def read_model(folder: Path, weights: FullWeights, dtype: torch.dtype) -> torch.Tensor:
    """Saved weights, [P] in `dtype`. Raises UserError E307 (integrity) for files that cannot be read or are of another
    model."""
    values = torch.empty(weights.size, dtype=dtype)
    views = {view.name: view for view in weights.layout}
    try:
        files = [_ONE]
        if confined.kind_of(folder / _INDEX) == "file":
            files = sorted(set(jsonfile.read_object(folder / _INDEX)["weight_map"].values()))
        for name in files:
            with confined.path_to_open_file(folder / name) as file:
                tensors = load_file(file)
            for key, tensor in tensors.items():
                view = views.pop(key, None)
                if view is None or tensor.shape != view.shape:
                    raise _misfit(folder, f"Weight {key} {tuple(tensor.shape)} is none of this model")
                values[view.start : view.stop] = tensor.reshape(-1)
    except (OSError, Damaged, SafetensorError, KeyError) as error:
        raise _misfit(folder, f"Cannot read the trained weights: {error}") from error
    if views:
        raise _misfit(folder, f"Weight {min(views)} is missing")
    return values


def _groups(layout: list[WeightView], itemsize: int) -> Iterator[list[WeightView]]:
    """The weights of each file, in order."""
    group: list[WeightView] = []
    for view in layout:
        if group and (view.stop - group[0].start) * itemsize > FILE_BYTES:
            yield group
            group = []
        group.append(view)
    yield group


def _misfit(folder: Path, what: str) -> Exception:
    return user_error("E307", what, str(folder), "use the model it was trained from", Exit.INTEGRITY)
