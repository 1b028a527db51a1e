"""Rows of weights whose gradient on trusted rows is an outlier, replaced by the mean of the others (DiSec, Findings of
ACL 2026; its released code's variant by singular values).
"""

from collections.abc import Sequence

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from p2p_dist.config.methods import OutlierRows
from p2p_dist.config.study import LoraSpec
from p2p_dist.errors import user_error
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.batching import by_length
from p2p_dist.modeling.body import decoder_layers
from p2p_dist.modeling.forward import answer_losses
from p2p_dist.modeling.lora_targets import target_names
from p2p_dist.modeling.merge import require_plain
from p2p_dist.modeling.packing import grouping, pack
from p2p_dist.modeling.tokenization import Encoded


def replace_outlier_rows(base: Base, edit: OutlierRows, rows: Sequence[Encoded]) -> dict[str, int]:
    """Edit the linear layers of the last decoder layers, in place. Returns the number of rows replaced, by layer.

    Raises UserError E267 for quantised weights and for layers of GPT-2's kind.
    """
    layers = _last_layers(base, edit.layers)
    gradients = _gradients(base, layers, rows)
    replaced = {}
    with torch.no_grad():
        for name, layer in layers.items():
            weight = layer.get_parameter("weight")
            flagged = outliers(gradients[name], weight.float(), edit.components, edit.deviations)
            if not flagged.all():
                weight[flagged] = weight[~flagged].float().mean(0).to(weight.dtype)
            replaced[name] = int(flagged.sum())
    return replaced


def outliers(gradient: torch.Tensor, weight: torch.Tensor, components: int, deviations: float) -> torch.Tensor:
    """Rows whose part in one of the first singular components of the gradient stands out.

    Shapes: gradient, weight [out, in] -> [out] of bool. The gradient's part along the weight is left out; a row stands
    out by the largest of its standardised |U_i S_i| over the components, above mean + `deviations` sd of all rows.
    """
    along = (gradient * weight).sum() / weight.square().sum().clamp(min=torch.finfo(weight.dtype).tiny)
    left, values, _ = torch.linalg.svd(gradient - along * weight, full_matrices=False)
    parts = (left * values)[:, :components].abs()
    standardised = (parts - parts.mean(0)) / parts.std(0).clamp(min=torch.finfo(parts.dtype).tiny)
    largest = standardised.amax(1)
    return largest > largest.mean() + deviations * largest.std()


def _last_layers(base: Base, count: int) -> dict[str, nn.Module]:
    """Linear layers of the last decoder layers by name."""
    last = {id(module) for layer in decoder_layers(base.model)[-count:] for module in layer.modules()}
    named = {name: base.model.get_submodule(name) for name in target_names(base.model, LoraSpec())}
    layers = {name: layer for name, layer in named.items() if id(layer) in last}
    for layer in layers.values():
        require_plain(layer)
        if isinstance(layer, Conv1D):
            what = "rows of GPT-2's kind of layers cannot be replaced"
            raise user_error("E267", what, "model", "exclude the defense for this model")
    return layers


def _gradients(base: Base, layers: dict[str, nn.Module], rows: Sequence[Encoded]) -> dict[str, torch.Tensor]:
    """Gradient of the mean loss over the rows' answer tokens for each weight, [out, in] in fp32."""
    weights: list[torch.Tensor] = [layer.get_parameter("weight") for layer in layers.values()]
    total = sum(len(row.targets) for row in rows)
    for weight in weights:
        weight.requires_grad_(True)
    sums = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
    for numbers in by_length([len(row.ids) for row in rows]):
        batch = pack([[rows[number] for number in numbers]], grouping(base.device)).to(base.device)
        losses = answer_losses(base.model, batch.ids, batch.positions, batch.packed, batch.answers, batch.targets)
        parts = torch.autograd.grad(losses.sum() / total, weights)
        for summed, part in zip(sums, parts, strict=True):
            summed += part.float()
    for weight in weights:
        weight.requires_grad_(False)
    return dict(zip(layers, sums, strict=True))
