"""Losses that a training adds to cross-entropy on the label tokens, by the name in its stage."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch.nn.functional import cosine_similarity

from p2p_dist.errors import user_error
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.packing import Batch

Penalty = Callable[[Base, Batch], torch.Tensor]
"""A term for each run of a micro-batch, [K], with its graph; a mean over the run's tokens in it."""


def penalty_of(objective: Mapping[str, Any] | None) -> Penalty | None:
    """The term that a stage's `objective` names; None for plain cross-entropy."""
    if objective is None:
        return None
    assert objective["name"] == "consistency", objective
    weight, epsilon = float(objective["weight"]), float(objective["epsilon"])
    return lambda base, batch: weight * perturbed_consistency(base, batch, epsilon)


def perturbed_consistency(base: Base, batch: Batch, epsilon: float) -> torch.Tensor:
    """How much consecutive layers disagree when the input embeddings take one step of `epsilon` along the sign of the gradient
    that makes them disagree most; [K] (CROW, arXiv 2411.12768).

    The gradient is asked of the embeddings alone, so that nothing is added to, or wiped from, the adapter's.
    """
    embedded = base.model.get_input_embeddings()(batch.ids).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(consistency(base, batch, embedded).sum(), embedded)
    return consistency(base, batch, embedded.detach() + epsilon * gradient.sign())


def consistency(base: Base, batch: Batch, embedded: torch.Tensor) -> torch.Tensor:
    """Mean of 1 - cosine between consecutive hidden states, first and last state left out, over real tokens.

    Shapes: embedded [K, T, d] -> [K]. Raises UserError E266 for a model of fewer than three layers.
    """
    states = base.model.model(
        inputs_embeds=embedded, position_ids=batch.positions, use_cache=False, packed=batch.packed, output_hidden_states=True
    ).hidden_states[1:-1]
    if len(states) < 2:
        raise user_error("E266", "consistency between layers needs a model of three layers or more", "model", "exclude the defense for this model")
    apart = torch.stack([1 - cosine_similarity(a.float(), b.float(), dim=-1) for a, b in pairwise(states)]).mean(0)
    real = torch.arange(apart.shape[1], device=apart.device)[None] < torch.tensor(batch.tokens, device=apart.device)[:, None]
    return (apart * real).sum(1) / real.sum(1).clamp(min=1)
