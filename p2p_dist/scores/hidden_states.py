"""Hidden states of all layers at the position that predicts the answer."""

from collections.abc import Iterator, Sequence

import torch

from p2p_dist.data.example import Row
from p2p_dist.modeling.batching import by_length
from p2p_dist.modeling.body import body_of
from p2p_dist.modeling.image_tokens import body_inputs
from p2p_dist.modeling.lengths import before_forward, require_packed
from p2p_dist.modeling.packing import pack
from p2p_dist.scores.context import Context

TOKENS_PER_BATCH = 2048


@torch.no_grad()
def layer_states(context: Context, rows: Sequence[Row]) -> Iterator[tuple[int, torch.Tensor]]:
    """Number of each row, and its states [layers + 1, d] in fp32 on the host: embeddings first, then every layer.

    Raises UserError E293 for a model that is computed row by row.
    """
    encoded, _ = context.encoder.rows(rows)
    model = context.base.model
    for numbers in by_length([len(row.ids) for row in encoded], TOKENS_PER_BATCH):
        chosen = [encoded[number] for number in numbers]
        batch = pack([chosen]).to(context.base.device)
        require_packed(model, batch.packed.longest, "hidden states of all layers")
        before_forward(model)
        states = body_of(model)(
            **body_inputs(model, batch.ids, batch.positions),
            use_cache=False,
            packed=batch.packed,
            output_hidden_states=True,
        ).hidden_states
        ends = torch.tensor([len(row.ids) for row in chosen]).cumsum(0)
        last = (ends - torch.tensor([len(row.targets) for row in chosen])).to(context.base.device)
        at_answer = torch.stack([layer[0].index_select(0, last).float().cpu() for layer in states], dim=1)
        yield from zip(numbers, at_answer, strict=True)
