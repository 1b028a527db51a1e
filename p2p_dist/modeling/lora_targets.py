"""Layers that get an adapter: linear layers by name, in all decoder layers or the upper ones."""

from collections.abc import Sequence

from torch import nn
from transformers.pytorch_utils import Conv1D

from p2p_dist.config.study import LoraSpec
from p2p_dist.errors import user_error
from p2p_dist.modeling.body import OTHER_MODEL, decoder_layers, family_of, in_vision_tower, is_head

_LINEAR_SUBCLASSES = ("FalconLinear", "Linear4bit")
"""Subclasses of `nn.Linear` that compute what it computes."""


def linear_layers(model: nn.Module) -> list[str]:
    """Full names of the language model's linear layers but the head: exactly `nn.Linear`, a quantised one, or GPT-2's
    `Conv1D`.

    Other subclasses (routers of experts) compute something else than x W^T. A vision tower is frozen.
    """
    return [
        name
        for name, module in model.named_modules()
        if _is_linear(module) and not is_head(model, name, module) and not in_vision_tower(model, name)
    ]


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, Conv1D) or (
        isinstance(module, nn.Linear) and (type(module) is nn.Linear or type(module).__name__ in _LINEAR_SUBCLASSES)
    )


def target_names(model: nn.Module, spec: LoraSpec) -> list[str]:
    """Full names of the linear layers that get an adapter. Raises UserError E295 for a target that does not exist, and
    where there is no layer to adapt."""
    linear = linear_layers(model)
    if not linear:
        raise user_error("E295", f"{family_of(model)} has no linear layer to adapt", "model", OTHER_MODEL)
    if spec.layers is not None:
        linear = _of_upper_layers(model, linear, spec.layers)
    if spec.target_modules == "all-linear":
        return linear
    if missing := [target for target in spec.target_modules if not any(_ends(name, target) for name in linear)]:
        leaves = sorted({name.rpartition(".")[2] for name in linear})
        raise user_error(
            "E295",
            f"{', '.join(sorted(missing))}: no linear layer of {family_of(model)} has this name",
            "train.lora.target_modules",
            f"name some of {', '.join(leaves)}",
        )
    return [name for name in linear if any(_ends(name, target) for target in spec.target_modules)]


def _ends(name: str, target: str) -> bool:
    """True if `target` is a module's full name, or its last parts, as PEFT reads target modules."""
    return f".{name}".endswith(f".{target}")


def _of_upper_layers(model: nn.Module, linear: Sequence[str], count: int) -> list[str]:
    """Those of the linear layers that lie in the last `count` decoder layers. Raises UserError E295 if the model has
    fewer."""
    decoders = decoder_layers(model)
    if count > len(decoders):
        what = f"{family_of(model)} has {len(decoders)} decoder layers, and adapters are asked for in {count}"
        raise user_error("E295", what, "train.lora.layers", f"set train.lora.layers={len(decoders)} or less")
    inside = {id(module) for decoder in decoders[-count:] for module in decoder.modules()}
    return [name for name in linear if id(model.get_submodule(name)) in inside]


def unadapted_weights(model: nn.Module) -> list[str]:
    """Kinds of large weights in the decoder layers that are no linear layers and get no adapter, by the end of their
    names: fused experts and the like."""
    inside = tuple(f"{name}." for name in linear_layers(model))
    head = tuple(f"{name}." for name, module in model.named_modules() if is_head(model, name, module))
    embeddings = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, nn.Embedding))
    names = [
        name
        for name, weight in model.named_parameters()
        if weight.dim() in (2, 3)
        and not name.startswith(inside + head + embeddings)
        and not in_vision_tower(model, name)
        and ".lora_" not in name
        and not name.endswith("bias")
    ]
    return sorted({".".join(name.split(".")[-2:]) for name in names})
