"""Check that PEFT reads an adapter back as it was trained: random matrices on a base's target layers, written, read by
PEFT, and compared on the logits of short rows.

PEFT maps targets of some families to other weights and leaves adapters out with no more than a warning. The verdict is
remembered per base, targets and versions of the libraries.
"""

import contextlib
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from p2p_dist.config.study import LoraSpec
from p2p_dist.errors import user_error
from p2p_dist.modeling import guard
from p2p_dist.modeling.adapter_config import peft_module
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.body import family_of
from p2p_dist.modeling.lora import Adapters, eject
from p2p_dist.modeling.lora_targets import target_names
from p2p_dist.training.adapter_io import load_adapter, save_adapter


def require_same_in_peft(base: Base, spec: LoraSpec, key: Mapping[str, Any]) -> None:
    """Raise UserError E296 where PEFT would compute something else from an adapter of this base and these targets.

    `key` names the base for the memory of verdicts. The base must hold no adapters, and holds none afterwards.
    """
    targets = "all-linear" if spec.target_modules == "all-linear" else sorted(spec.target_modules)
    layers = {} if spec.layers is None else {"layers": spec.layers}
    verdict = guard.verdict_file(base.model, {"peft": dict(key), "targets": targets, "r": spec.r, **layers}, ("peft",))
    if guard.remembered(verdict) is not None:
        return
    probe = spec.model_copy(update={"dropout": 0.0})
    lost, same = _compare(base, probe)
    leaves = sorted({name.rpartition(".")[2] for name in target_names(base.model, probe)})
    if lost:
        raise _refused(base, leaves, lost, f"it has no place for those of {', '.join(lost)}")
    if not same:
        changed = [leaf for leaf in leaves if not _is_same_alone(base, probe, leaf)]
        what = f"its logits are others{' with those of ' + ', '.join(changed) if changed else ''}"
        raise _refused(base, leaves, changed, what)
    guard.remember(verdict, guard.mode_now(base.model))


def _compare(base: Base, spec: LoraSpec) -> tuple[list[str], bool]:
    """Targets that PEFT drops or refuses, and whether its logits are ours."""
    names = target_names(base.model, spec)
    with tempfile.TemporaryDirectory() as folder:
        ours = _write(base, spec, Path(folder))
        try:
            reloaded, read = _read(base, Path(folder))
        except (ValueError, RuntimeError, NotImplementedError) as error:
            return _named_in(error, names), False
    lost = sorted({name.rpartition(".")[2] for name in set(names) - read})
    return lost, guard.difference(reloaded, ours) <= guard.TOLERANCE[base.dtype]


def _is_same_alone(base: Base, spec: LoraSpec, leaf: str) -> bool:
    """True if PEFT reads an adapter of this target alone as it was written."""
    lost, same = _compare(base, spec.model_copy(update={"target_modules": (leaf,)}))
    return same and not lost


def _refused(base: Base, leaves: list[str], lost: list[str], why: str) -> Exception:
    left = [leaf for leaf in leaves if leaf not in lost]
    return user_error(
        "E296",
        f"PEFT does not read adapters of {family_of(base.model)} as they are trained: {why}",
        "train.lora.target_modules",
        f"set train.lora.target_modules=[{', '.join(left)}]" if lost and left else "choose other target modules",
    )


def _named_in(error: Exception, names: list[str]) -> list[str]:
    """Target modules that PEFT's error names."""
    return sorted(leaf for leaf in {name.rpartition(".")[2] for name in names} if f"'{leaf}'" in str(error))


@torch.no_grad()
def _write(base: Base, spec: LoraSpec, folder: Path) -> torch.Tensor:
    """Write an adapter of random numbers, and return the logits of the rows with it."""
    adapters = Adapters(base.model, spec, 1)
    try:
        stream = torch.Generator().manual_seed(0)
        values = adapters.init_params(stream)
        size = 0.5 / (spec.alpha / spec.r * spec.r**0.5)
        for view in adapters.layout:
            if view.side == "B":
                values[view.start : view.stop].normal_(0.0, size, generator=stream)
        save_adapter(folder, adapters, values, None)
        load_adapter(folder, adapters, 0)
        return guard.own_rows(base.model)
    finally:
        eject(base.model)


def _read(base: Base, folder: Path) -> tuple[torch.Tensor, set[str]]:
    """Logits of the rows with the adapter as PEFT reads it, and the layers that have one there."""
    with _plain_model(base), warnings.catch_warnings(), contextlib.redirect_stdout(None):
        warnings.simplefilter("ignore")
        model = peft_module().PeftModel.from_pretrained(base.model, folder)
        try:
            logits = guard.own_rows(base.model)
            layers = {
                name
                for name, module in base.model.named_modules()
                if len(getattr(module, "lora_A", ())) and getattr(module, "parameter_name", None) is None
            }
        finally:
            model.unload()
    return logits, layers


@contextlib.contextmanager
def _plain_model(base: Base) -> Iterator[None]:
    """The base is the same behind the block: its attributes, its modules, and the weights that need no gradient. PEFT
    leaves the layers that it has wrapped before one that it refuses."""
    before = set(vars(base.model))
    children = [(module, dict(module._modules)) for module in base.model.modules()]
    try:
        yield
    finally:
        for module, own in children:
            module._modules.clear()
            module._modules.update(own)
        for name in set(vars(base.model)) - before:
            delattr(base.model, name)
        base.model.requires_grad_(False).eval()
