"""The one forward pass of training and evaluation: logits at the answer positions and nowhere else."""

from typing import Any

import torch
from torch.nn.functional import linear

from p2p_dist.modeling.attention import PackedRows


def answer_states(model: Any, ids: torch.Tensor, positions: torch.Tensor, packed: PackedRows, answers: torch.Tensor) -> torch.Tensor:
    """Shapes: ids, positions [K, T], answers [A] into K*T -> last hidden states [A, d]."""
    hidden = model.model(input_ids=ids, position_ids=positions, use_cache=False, packed=packed).last_hidden_state
    return hidden.reshape(-1, hidden.shape[-1]).index_select(0, answers)


def answer_logits(model: Any, ids: torch.Tensor, positions: torch.Tensor, packed: PackedRows, answers: torch.Tensor) -> torch.Tensor:
    """Shapes: ids, positions [K, T], answers [A] into K*T -> logits [A, V] in fp32."""
    return linear(answer_states(model, ids, positions, packed, answers), model.lm_head.weight).float()
