"""Parts of a causal language model, whatever its family calls them: the body that gives hidden states, its decoder
layers, and the model's own path from hidden states to logits."""

from typing import Any

import torch
from torch import nn

from p2p_dist.errors import user_error

_TOWER = "visual."
"""Beginning of the names of a vision tower's modules, under the body."""
OTHER_MODEL = "choose another model (docs/models.md lists the families)"


def family_of(model: Any) -> str:
    """The family's name in transformers."""
    return str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))


def body_name(model: Any) -> str:
    """Name of the model's part without a head. Raises UserError E293 for a model that has none."""
    prefix = str(getattr(model, "base_model_prefix", "model"))
    if isinstance(getattr(model, prefix, None), nn.Module):
        return prefix
    bodies = [name for name, module in model.named_children() if _is_model(module)]
    if len(bodies) != 1:
        raise user_error("E293", f"{family_of(model)}: the model has no body without a head", "model", OTHER_MODEL)
    return bodies[0]


def body_of(model: Any) -> Any:
    """The model without its head, which gives hidden states. Raises UserError E293 for a model that has no such
    part."""
    return getattr(model, body_name(model))


def _is_model(module: object) -> bool:
    """True for a whole model of transformers, and not for a layer of one."""
    return isinstance(module, nn.Module) and hasattr(module, "base_model_prefix")


def decoder_layers(model: Any) -> list[nn.Module]:
    """The model's decoder layers. Raises UserError E293 where they are not one list."""
    depth = depth_of(model)
    for name, module in body_of(model).named_modules():
        is_list = isinstance(module, nn.ModuleList) and len(module) == depth and name.count(".") <= 1
        if is_list and not name.startswith(_TOWER):
            return list(module)
    raise user_error("E293", f"{family_of(model)}: {depth} decoder layers were not found", "model", OTHER_MODEL)


def depth_of(model: Any) -> int:
    """Number of decoder layers of the language model."""
    return int(model.config.get_text_config().num_hidden_layers)


def in_vision_tower(model: Any, name: str) -> bool:
    """True for a module or weight of the part that reads images."""
    return getattr(model.config, "vision_config", None) is not None and name.startswith(f"{body_name(model)}.{_TOWER}")


def is_head(model: nn.Module, name: str, module: nn.Module) -> bool:
    """True for the layer that gives logits."""
    outputs = getattr(model, "get_output_embeddings", None)
    return name == "lm_head" or (outputs is not None and module is outputs())


def own_logits(model: Any, states: torch.Tensor) -> torch.Tensor:
    """Logits [A, V] of last hidden states [A, d] by the model's own forward pass, its scales and caps included, with
    the given states in the place of those that its body would compute."""
    return type(model).forward(_WithStates(model, states[None]), use_cache=False).logits[0]


class _WithStates:
    """A model whose body returns given hidden states; every other attribute is the model's."""

    def __init__(self, model: Any, states: torch.Tensor):
        self._model, self._body = model, body_name(model)
        self._states = states

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._model, name)
        return _Body(attribute, self._states) if name == self._body else attribute


class _Body:
    """A body that returns given hidden states, and so do the models inside it (OPT's `model.decoder`)."""

    def __init__(self, body: Any, states: torch.Tensor):
        self._module, self._states = body, states

    def __call__(self, *_: Any, **__: Any) -> "_Output":
        return _Output(self._states)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._module, name)
        return _Body(attribute, self._states) if _is_model(attribute) else attribute


class _Output:
    """A body's output: everything but the hidden states is None."""

    def __init__(self, states: torch.Tensor):
        self.last_hidden_state = states

    def __getitem__(self, index: Any) -> Any:
        return (self.last_hidden_state,)[index]

    def __getattr__(self, name: str) -> None:
        return None
