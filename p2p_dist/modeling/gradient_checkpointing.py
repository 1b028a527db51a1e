"""Gradient checkpointing: decoder layers keep their input alone and compute again in the backward pass (arXiv
1604.06174).

The same numbers with less memory and a second forward pass: how a run is carried out, and no part of its identity.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint


@contextmanager
def recomputed(model: Any, wanted: bool = True) -> Iterator[None]:
    """Within it, the backward pass recomputes every decoder layer. Dropout masks are drawn outside of the layers and
    stay."""
    layers = list(model.model.layers) if wanted else []
    for layer in layers:
        # transformers' own switch needs training mode, in which it does more than that, and has changed its name.
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
