"""The base that a worker keeps from one job to the next.

It is lent to one job at a time and looked over when it comes back: adapters out, every weight the same, nothing else of
the model different. A base whose weights changed ends its worker; one that was left different in any other way is
loaded again. Bases that a defense changes, and quantised ones, are never kept.
"""

import gc
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from p2p_dist.config.identity import canonical
from p2p_dist.modeling.base import Base, load_base
from p2p_dist.modeling.image_tokens import forget_images
from p2p_dist.modeling.lora import eject
from p2p_dist.modeling.weight_checksum import WeightChecksum, checksum


@dataclass(frozen=True)
class _Lent:
    """A kept base, what it was asked for as, and how its model looked before anybody worked with it."""

    base: Base
    key: str
    looks: list[Any]


class BaseCache:
    """At most one base, and the settings of torch that every job must find as the first one did."""

    def __init__(self) -> None:
        self._lent: _Lent | None = None
        self._settings = _settings()

    def load(
        self,
        identity: Mapping[str, Any],
        local: Mapping[str, str],
        dtype: str,
        quantization: str | None = None,
        keep: bool = True,
    ) -> Base:
        """As `load_base`; the kept base if it is the one that is wanted. Raises UserError, E316 when its weights
        changed."""
        key = canonical([dict(identity), dict(local), dtype])
        keep = keep and quantization is None
        if keep and self._lent is not None and self._lent.key == key:
            self._take_back()
            if self._lent is not None:
                self._lent.base.check()
                return self._lent.base
        self._clear()  # before the next is loaded: a device may hold only one
        gc.freeze()  # what is imported stays: looking through torch and transformers would take 0.3 s after every job
        base = load_base(identity, local, dtype, quantization)
        if keep:
            base = replace(base, weight_checksum=WeightChecksum(base.model))
            self._lent = _Lent(base, key, _looks(base))
        return base

    def look_over(self) -> bool:
        """After a job: free what it left behind, features of its images included, and say whether another may follow in
        this process: every weight is the same, and so are the settings of torch."""
        self._take_back()
        if self._lent is not None:
            forget_images(self._lent.base.model)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        sound = (
            self._lent is None
            or self._lent.base.weight_checksum is None
            or self._lent.base.weight_checksum.holds(self._lent.base.model)
        )
        return sound and _settings() == self._settings

    def _clear(self) -> None:
        """Let go of the base, and of what its parts hold of each other."""
        if self._lent is not None:
            self._lent = None
            gc.collect()

    def _take_back(self) -> None:
        """Adapters out; a model that looks different all the same is loaded again when it is wanted."""
        if self._lent is not None:
            eject(self._lent.base.model)
            if _looks(self._lent.base) != self._lent.looks:
                self._clear()


def _looks(base: Base) -> list[Any]:
    """Everything about a model but its weights that a forward pass depends on."""
    model, tokenizer = base.model, base.tokenizer
    modules = [
        (name, type(part), part.training, "forward" in vars(part), _hooks(part)) for name, part in model.named_modules()
    ]
    weights = [
        (name, id(weight), weight.requires_grad, weight.grad is None) for name, weight in model.named_parameters()
    ]
    buffers = [name for name, _ in model.named_buffers()], checksum(buffer for _, buffer in model.named_buffers())
    settings = (
        model.config.to_json_string(use_diff=False),
        model.config._attn_implementation,
        model.generation_config.to_json_string(),
    )
    words = len(tokenizer), tokenizer.padding_side, tokenizer.truncation_side, tokenizer.pad_token
    return [modules, weights, buffers, settings, words]


def _hooks(part: torch.nn.Module) -> tuple[int, ...]:
    return (
        len(part._forward_hooks),
        len(part._forward_pre_hooks),
        len(part._backward_hooks),
        len(part._backward_pre_hooks),
    )


def _settings() -> list[Any]:
    """Settings of the process that results may depend on; those that every job sets by itself are not among them."""
    return [
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.is_autocast_enabled("cuda"),
        torch.get_float32_matmul_precision(),
    ]
