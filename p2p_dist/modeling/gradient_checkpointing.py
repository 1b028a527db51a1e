"""Gradient checkpointing (arXiv 1604.06174): decoder layers store only their input, and the backward pass repeats their
forward pass.

The numbers are the same bits; memory is less and time is more. It belongs to the execution of a run, not to its
identity.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint


@contextmanager
def gradient_checkpointing(model: Any, enabled: bool = True) -> Iterator[None]:
    """Checkpoint every decoder layer inside the block. Dropout masks are drawn outside of the layers and stay."""
    layers = list(model.model.layers) if enabled else []
    for layer in layers:
        # transformers' own switch needs training mode, in which it does more than that, and has changed its name.
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
