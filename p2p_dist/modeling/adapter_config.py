"""`adapter_config.json` in PEFT's format, built and checked by PEFT's own `LoraConfig`.

PEFT has many variants of LoRA whose weights have the same names and shapes as plain LoRA. An adapter that uses one of
them is refused, since its numbers would be computed wrongly without any error.
"""

import contextlib
import json
import sys
import warnings
from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from p2p_dist.config.study import LoraSpec
from p2p_dist.errors import Exit, user_error
from p2p_dist.modeling.hidden_import import hidden

FILE = "adapter_config.json"
_WRITTEN = (
    "base_model_name_or_path",
    "bias",
    "inference_mode",
    "lora_alpha",
    "lora_dropout",
    "peft_type",
    "r",
    "target_modules",
    "task_type",
)
"""PEFT's other fields keep its defaults and are not written, so that the bytes do not depend on PEFT's version."""
_WITHOUT_EFFECT = {
    "auto_mapping",
    "base_model_name_or_path",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
}
"""Fields that the engine reads, that change no number, or that only name the layers, as the weights do too."""
_LANGUAGE = ".language_model."
"""Part of the names of layers whose model has a vision tower too."""
_PLAIN_INITS = (True, False, "gaussian", "orthogonal")
"""Values of `init_lora_weights` that leave the base's weights alone."""


@dataclass(frozen=True)
class AdapterConfig:
    """The settings of a saved adapter: y = x W^T + alpha / r * (x A^T) B^T."""

    r: int
    alpha: float

    @property
    def scale(self) -> float:
        return self.alpha / self.r


def write_config(
    folder: Path, spec: LoraSpec, layers: Collection[str], base_name: str | None, revision: str | None = None
) -> None:
    """Write the configuration of adapters on `layers` (full module names). Equal settings give equal bytes.

    `base_name` and `revision` are what loads the base; None for a base that cannot be loaded (random weights).
    """
    config = (
        peft_module()
        .LoraConfig(
            task_type="CAUSAL_LM",
            base_model_name_or_path=base_name,
            r=spec.r,
            lora_alpha=spec.alpha,
            lora_dropout=spec.dropout,
            target_modules=sorted({layer if spec.layers else layer.rpartition(".")[2] for layer in layers}),
            inference_mode=True,
        )
        .to_dict()
    )
    written = {name: config[name] for name in _WRITTEN} | {"target_modules": sorted(config["target_modules"])}
    written |= {"revision": revision} if revision else {}
    # A vision tower has layers of the same names.
    written |= {"exclude_modules": r".*\.visual\..*"} if any(_LANGUAGE in layer for layer in layers) else {}
    (folder / FILE).write_text(json.dumps(written, indent=1, sort_keys=True) + "\n")


def read_config(folder: Path) -> AdapterConfig:
    """Read and check the configuration of a saved adapter.

    Raises UserError E307 (integrity) when the file is missing or damaged, E285 when it is no plain LoRA adapter.
    """
    path = folder / FILE
    try:
        attributes = json.loads(path.read_bytes())
        if not isinstance(attributes, dict):
            raise ValueError("expected an object")
    except (OSError, ValueError) as error:
        fix = "delete the adapter's run folder and train it again"
        raise user_error(
            "E307", f"Cannot read the adapter's config: {error}", str(path), fix, Exit.INTEGRITY
        ) from error
    config_class = peft_module().LoraConfig
    known = {field.name for field in fields(config_class)}
    if (kind := attributes.get("peft_type")) != "LORA":
        raise _unsupported(path, f"peft_type={kind}")
    if unknown := sorted(name for name, value in attributes.items() if value and name not in known):
        raise _unsupported(path, ", ".join(unknown))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT warns of variants, which are refused below
            config = config_class(**{name: value for name, value in attributes.items() if name in known})
            default = config_class()
    except (TypeError, ValueError) as error:
        raise _unsupported(path, str(error)) from error
    if variants := _variants(config, default, known):
        raise _unsupported(path, ", ".join(variants))
    return AdapterConfig(int(config.r), float(config.lora_alpha))


def _variants(config: Any, default: Any, known: Iterable[str]) -> list[str]:
    """Settings of a LoraConfig that change what an adapter computes."""
    changed = [name for name in sorted(known) if getattr(config, name) != getattr(default, name)]
    return [
        f"{name}={getattr(config, name)}"
        for name in changed
        if name not in _WITHOUT_EFFECT
        and not (name == "init_lora_weights" and config.init_lora_weights in _PLAIN_INITS)
    ]


def _unsupported(path: Path, setting: str) -> Exception:
    fix = "use a plain LoRA adapter (PEFT's LoraConfig with r, lora_alpha and target_modules only)"
    return user_error("E285", f"Adapter variant is not supported: {setting}", str(path), fix)


def peft_module() -> Any:
    """PEFT, imported on first use: 0.3 s.

    Where bitsandbytes is installed and not imported yet, it is hidden from PEFT, which would load it and 2 s of
    compiler code with it; and bitsandbytes itself would load the package `kernels` (see `quantize`).
    """
    with contextlib.nullcontext() if "bitsandbytes" in sys.modules else hidden("bitsandbytes"):
        import peft
    return peft
