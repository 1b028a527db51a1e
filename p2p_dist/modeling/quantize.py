"""QLoRA: the frozen linear layers in 4 bits, adapters on top in the compute precision (arXiv 2305.14314).

NF4 with double quantisation, by bitsandbytes; every product is computed from de-quantised weights, in training and in
evaluation alike. Embeddings, norms and the output head keep their precision.
"""

import logging
from types import ModuleType
from typing import Any

import torch
from torch import nn

from p2p_dist.errors import user_error
from p2p_dist.modeling.body import in_vision_tower, is_head
from p2p_dist.modeling.hidden_import import hidden


def bitsandbytes() -> ModuleType:
    """The library, imported where it is needed. Raises UserError E281 when it is not installed.

    Where the package `kernels` is installed, bitsandbytes would fetch compiled code from a hub and run it; not here.
    """
    log = logging.getLogger("bitsandbytes")
    level = log.level
    log.setLevel(logging.ERROR)  # it warns that `kernels` is missing
    try:
        with hidden("kernels"):
            import bitsandbytes as library
    except ModuleNotFoundError as error:
        raise user_error(
            "E281",
            f"Quantization and 8-bit optimizers need bitsandbytes: {error}",
            "train",
            "run pip install 'p2p-dist[quant]'",
        ) from error
    finally:
        log.setLevel(level)
    return library


def quantize_nf4(model: Any) -> None:
    """Put 4-bit layers in the place of all linear layers but the head and a vision tower, in the model's precision.

    Weights are rounded when the model is moved to its device.
    """
    bnb = bitsandbytes()
    for name, layer in [
        (name, layer)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and not is_head(model, name, layer) and not in_vision_tower(model, name)
    ]:
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, _layer(bnb, layer))


def _layer(bnb: ModuleType, old: nn.Linear) -> nn.Module:
    dtype = old.weight.dtype
    with torch.device("meta"):
        new = bnb.nn.Linear4bit(
            old.in_features, old.out_features, bias=old.bias is not None, compute_dtype=dtype, quant_type="nf4"
        )
    new.weight = bnb.nn.Params4bit(
        old.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True, module=new
    )
    new.bias = old.bias
    # It would repack a layer's weights in place, for a product without a gradient, once an input needs none.
    new.support_avx512bf16_for_cpu = False
    return new
