"""The one forward pass of training and evaluation: logits at the answer positions and nowhere else.

Rows are packed, or computed one by one where a family mixes tokens outside attention (`config.families`); the model's
attention implementation says which.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from p2p_dist.modeling import attention
from p2p_dist.modeling.attention import PackedRows, equal_rows, rows_packed
from p2p_dist.modeling.body import body_of, own_logits
from p2p_dist.modeling.image_tokens import body_inputs, has_image_tokens
from p2p_dist.modeling.lengths import before_forward, require_length, takes_rows_apart
from p2p_dist.modeling.lora import tokens_selected

LOSSES_AT_ONCE = 512
"""Positions whose logits a training step holds at a time: 311 MB in fp32 at 152,000 tokens, and as much for their
gradient."""


@dataclass(frozen=True)
class Sharded:
    """A model whose weights lie in pieces on all ranks. Forward passes go through the engine that gathers them, and
    every rank must make the same number of them."""

    engine: Callable[..., torch.Tensor]
    """Calls one of the functions below, by its name, with the whole model and the given tensors."""
    model: Any
    """The model that was sharded, for its configuration."""


def unsharded(model: Any) -> Any:
    """The model itself, for its configuration."""
    return model.model if isinstance(model, Sharded) else model


def answer_states(
    model: Any, ids: torch.Tensor, positions: torch.Tensor, packed: PackedRows, answers: torch.Tensor
) -> torch.Tensor:
    """Shapes: ids, positions [K, T], answers [A] into K*T -> last hidden states [A, d].

    Raises UserError E294 for a row that is too long for the model.
    """
    if isinstance(model, Sharded):
        return model.engine("answer_states", ids, positions, packed, answers)
    require_length(model, packed.longest)
    if takes_rows_apart(model, packed.longest):
        if any(group.mask is not None for group in packed.groups):
            raise ValueError("a row of a tree's tokens cannot be computed as a plain one")
        return _states_by_row(model, ids, packed, answers)
    before_forward(model)
    with rows_packed(packed):
        output = body_of(model)(**body_inputs(model, ids, positions), use_cache=False, packed=packed)
    hidden = output.last_hidden_state
    return hidden.reshape(-1, hidden.shape[-1]).index_select(0, answers)


def _states_by_row(model: Any, ids: torch.Tensor, packed: PackedRows, answers: torch.Tensor) -> torch.Tensor:
    """As `answer_states`, of one run: rows of one length at a time, through the model's own forward pass."""
    if len(ids) > 1:
        raise ValueError("rows of several runs cannot be taken apart")
    flat = ids.view(-1)
    starts_by_length: dict[int, list[int]] = defaultdict(list)
    for start, length in packed.places:
        starts_by_length[length].append(start)
    states, tokens = [], []
    for length, starts in sorted(starts_by_length.items()):
        chosen = (torch.tensor(starts)[:, None] + torch.arange(length)).view(-1).to(ids.device)
        rows = equal_rows(len(starts), length, ids.device) if is_packed(model) else None
        arguments: dict[str, Any] = {} if rows is None else {"packed": rows}
        before_forward(model)
        arguments |= _row_inputs(model, flat[chosen].view(-1, length))
        with tokens_selected(chosen), rows_packed(rows):
            output = body_of(model)(**arguments, use_cache=False)
        states.append(output.last_hidden_state.reshape(len(chosen), -1))
        tokens.append(chosen)
    places = torch.zeros_like(flat)
    places[torch.cat(tokens)] = torch.arange(sum(map(len, tokens)), device=ids.device)
    return torch.cat(states).index_select(0, places[answers])


def _row_inputs(model: Any, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Arguments of a model's body for whole rows, ids [rows, length]; it counts the positions of words itself."""
    if not has_image_tokens(model):
        return {"input_ids": ids}
    return body_inputs(model, ids, torch.arange(ids.shape[1], device=ids.device).expand(ids.shape))


def is_packed(model: Any) -> bool:
    """True where the model's attention takes packed rows."""
    return bool(model.config._attn_implementation == attention.NAME)


def logits_of(model: Any, states: torch.Tensor) -> torch.Tensor:
    """Shapes: last hidden states [..., d] -> logits [..., V] in fp32."""
    if isinstance(model, Sharded):
        return model.engine("logits_of", states)
    return own_logits(model, states.reshape(-1, states.shape[-1])).view(*states.shape[:-1], -1).float()


def answer_logits(
    model: Any, ids: torch.Tensor, positions: torch.Tensor, packed: PackedRows, answers: torch.Tensor
) -> torch.Tensor:
    """Shapes: ids, positions [K, T], answers [A] into K*T -> logits [A, V] in fp32."""
    if isinstance(model, Sharded):
        return model.engine("answer_logits", ids, positions, packed, answers)
    return logits_of(model, answer_states(model, ids, positions, packed, answers))


def answer_losses(
    model: Any,
    ids: torch.Tensor,
    positions: torch.Tensor,
    packed: PackedRows,
    answers: torch.Tensor,
    targets: torch.Tensor,
) -> torch.Tensor:
    """Shapes: ids, positions [K, T], answers [A] into K*T, targets [A] -> cross-entropy of each target, [A] in fp32."""
    if isinstance(model, Sharded):
        return model.engine("answer_losses", ids, positions, packed, answers, targets)
    return losses_of_states(model, answer_states(model, ids, positions, packed, answers), targets)


def losses_of_states(
    model: Any, states: torch.Tensor, targets: torch.Tensor, at_once: int = LOSSES_AT_ONCE
) -> torch.Tensor:
    """Shapes: last hidden states [A, d], targets [A] -> [A] in fp32."""
    return in_pieces(partial(_losses, model), states, targets, at_once=at_once)


def in_pieces(
    losses: Callable[..., torch.Tensor], *columns: torch.Tensor, at_once: int = LOSSES_AT_ONCE
) -> torch.Tensor:
    """Losses [A] of positions that are told by columns of A rows each. Logits of more than `at_once` positions are
    never held: they are computed piece by piece, and once more in the backward pass. Label words need no second
    piece."""
    if len(columns[0]) <= at_once:
        return losses(*columns)
    pieces = zip(*(column.split(at_once) for column in columns), strict=True)
    return torch.cat([checkpoint(losses, *piece, use_reentrant=False, preserve_rng_state=False) for piece in pieces])


def _losses(model: Any, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return cross_entropy(logits_of(model, states), targets, reduction="none")


PASSES: dict[str, Callable[..., torch.Tensor]] = {
    "answer_states": answer_states,
    "logits_of": logits_of,
    "answer_logits": answer_logits,
    "answer_losses": answer_losses,
}
