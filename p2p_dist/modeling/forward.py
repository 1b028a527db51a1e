"""The one forward pass of training and evaluation: logits at the answer positions and nowhere else."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from p2p_dist.modeling.attention import PackedRows


@dataclass(frozen=True)
class Sharded:
    """A model whose weights lie in pieces on all ranks. Forward passes go through the engine that gathers them, and every
    rank must make the same number of them."""

    engine: Callable[..., torch.Tensor]
    """Calls one of the functions below, by its name, with the whole model and the given tensors."""
    model: Any
    """The model that was sharded, for its configuration."""


def answer_states(model: Any, ids: torch.Tensor, positions: torch.Tensor, packed: PackedRows, answers: torch.Tensor) -> torch.Tensor:
    """Shapes: ids, positions [K, T], answers [A] into K*T -> last hidden states [A, d]."""
    if isinstance(model, Sharded):
        return model.engine("answer_states", ids, positions, packed, answers)
    hidden = model.model(input_ids=ids, position_ids=positions, use_cache=False, packed=packed).last_hidden_state
    return hidden.reshape(-1, hidden.shape[-1]).index_select(0, answers)


def logits_of(model: Any, states: torch.Tensor) -> torch.Tensor:
    """Shapes: last hidden states [..., d] -> logits [..., V] in fp32."""
    if isinstance(model, Sharded):
        return model.engine("logits_of", states)
    return model.lm_head(states).float()


def answer_logits(model: Any, ids: torch.Tensor, positions: torch.Tensor, packed: PackedRows, answers: torch.Tensor) -> torch.Tensor:
    """Shapes: ids, positions [K, T], answers [A] into K*T -> logits [A, V] in fp32."""
    if isinstance(model, Sharded):
        return model.engine("answer_logits", ids, positions, packed, answers)
    return logits_of(model, answer_states(model, ids, positions, packed, answers))


PASSES: dict[str, Callable[..., torch.Tensor]] = {"answer_states": answer_states, "logits_of": logits_of, "answer_logits": answer_logits}
