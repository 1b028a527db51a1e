"""Gradient checkpointing (arXiv 1604.06174): decoder layers store only their input, and the backward pass repeats their
forward pass.

The numbers are the same bits; memory is less and time is more. It belongs to the execution of a run, not to its
identity.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint

from p2p_dist.modeling.attention import current_rows, rows_packed
from p2p_dist.modeling.body import decoder_layers
from p2p_dist.modeling.lora import selected_tokens, tokens_selected


@contextmanager
def gradient_checkpointing(model: Any, enabled: bool = True) -> Iterator[None]:
    """Checkpoint every decoder layer inside the block. Dropout masks are drawn outside of the layers and stay."""
    layers = decoder_layers(model) if enabled else []
    before = [vars(layer).get("forward") for layer in layers]
    for layer in layers:
        # transformers' own switch needs training mode, in which it does more than that, and has changed its name.
        layer.forward = partial(_checkpointed, layer.forward)
    try:
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            del layer.forward
            if forward is not None:
                layer.forward = forward


def _checkpointed(forward: Callable[..., Any], *inputs: Any, **settings: Any) -> Any:
    """The layer's forward pass, repeated with the same rows and tokens."""
    tokens, packed = selected_tokens(), current_rows()

    def again(*inputs: Any, **settings: Any) -> Any:
        with tokens_selected(tokens), rows_packed(packed):
            return forward(*inputs, **settings)

    # Layers draw no random numbers, and a generator may not be asked while a CUDA graph is recorded.
    return checkpoint(again, *inputs, use_reentrant=False, preserve_rng_state=False, **settings)
