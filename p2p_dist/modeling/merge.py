"""Bases that a defense changed: an adapter folded into the weights, and weights set to zero."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from p2p_dist.config.methods import WeightPruning
from p2p_dist.config.study import LoraSpec
from p2p_dist.errors import Exit, user_error
from p2p_dist.modeling.adapter_config import read_config
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.forward import answer_states
from p2p_dist.modeling.lora_targets import target_names
from p2p_dist.modeling.packing import grouping, pack
from p2p_dist.modeling.tokenization import Encoded
from p2p_dist.results import confined


@torch.no_grad()
def merge(base: Base, adapter: Path) -> None:
    """Fold a saved adapter into the base: W + alpha / r * B A.

    Raises UserError E267 for quantised weights, E285 or E307 for an adapter that is not plain LoRA or damaged.
    """
    scale = read_config(adapter).scale
    with confined.path_to_open_file(adapter / "adapter_model.safetensors") as file:
        named = load_file(file)
    matrices = sorted(name for name in named if name.endswith("lora_A.weight"))
    if len(named) != 2 * len(matrices):
        what = f"Adapter has {len(named)} tensors, {2 * len(matrices)} of them LoRA matrices"
        raise user_error("E307", what, str(adapter), "train the adapter again", Exit.INTEGRITY)
    for key in matrices:
        layer = base.model.get_submodule(key.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
        require_plain(layer)
        update = scale * named[key.replace("lora_A", "lora_B")].float() @ named[key].float()
        update = update.to(layer.weight.device)
        layer.weight.copy_(layer.weight.float() + (update.T if isinstance(layer, Conv1D) else update))


@torch.no_grad()
def prune(base: Base, pruning: WeightPruning, calibration: Sequence[Encoded]) -> None:
    """Set the least important share of every linear layer but the head to zero, in place.

    magnitude: the smallest |W| of a layer. wanda: in every output row, the smallest |W| * norm of that input over the
    calibration rows (arXiv 2306.11695), activations taken from the model before any of it is pruned.
    """
    layers = {name: base.model.get_submodule(name) for name in target_names(base.model, LoraSpec())}
    norms = _input_norms(base, layers, calibration) if pruning.method == "wanda" else {}
    for name, layer in layers.items():
        require_plain(layer)
        if isinstance(layer, Conv1D):
            raise user_error(
                "E267", "layers of GPT-2's kind cannot be pruned", "model", "exclude the defense for this model"
            )
        weight = layer.weight.float().abs()
        if name in norms:
            drop = int(pruning.sparsity * weight.shape[1])
            chosen = (weight * norms[name][None]).argsort(dim=1, stable=True)[:, :drop]
            layer.weight.scatter_(1, chosen, 0.0)
        else:
            chosen = weight.flatten().argsort(stable=True)[: int(pruning.sparsity * weight.numel())]
            layer.weight.view(-1)[chosen] = 0.0


def _input_norms(base: Base, layers: Mapping[str, nn.Module], rows: Sequence[Encoded]) -> dict[str, torch.Tensor]:
    """L2 norm of every input of every layer over the real tokens of the rows, [in] each."""
    watch = _InputSquares(layers)
    for row in rows:
        batch = pack([[row]], grouping(base.device)).to(base.device)
        watch.real = len(row.ids)
        answer_states(base.model, batch.ids, batch.positions, batch.packed, batch.answers)
    watch.close()
    return {name: total.sqrt() for name, total in watch.sums.items()}


class _InputSquares:
    """Adds up the squares of what each layer is given, token by token, fillers behind the first `real` ones left
    out."""

    def __init__(self, layers: Mapping[str, nn.Module]):
        self.real = 0
        self.sums: dict[str, torch.Tensor] = {}
        self.handles = [layer.register_forward_pre_hook(self._hook(name)) for name, layer in layers.items()]

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            squares = inputs[0].reshape(-1, inputs[0].shape[-1])[: self.real].float().pow(2).sum(0)
            self.sums[name] = self.sums[name] + squares if name in self.sums else squares

        return hook

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()


def require_plain(layer: nn.Module) -> None:
    """Raises UserError E267 for a layer whose weights cannot be edited."""
    if not isinstance(layer, nn.Linear | Conv1D) or not layer.weight.is_floating_point():
        raise user_error(
            "E267",
            "quantised weights cannot be merged with an adapter or pruned",
            "train.quantization",
            "leave it out, or exclude the defense",
        )
