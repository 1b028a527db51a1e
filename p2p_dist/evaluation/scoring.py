"""One forward pass per test row: the logits at the answer position, and nothing else is read."""

from collections.abc import Callable, Iterator, Sequence

import torch

from p2p_dist.data.build import Suite
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.encode import Encoded, Encoder
from p2p_dist.modeling.forward import answer_logits
from p2p_dist.modeling.packing import pack
from p2p_dist.results.predictions import Prediction

TOKENS_PER_BATCH = 4096


@torch.no_grad()
def score_suite(base: Base, encoder: Encoder, suite: Suite, tick: Callable[[int], None] = lambda done: None) -> list[Prediction]:
    """Predictions in the order of the suite's rows, by the one adapter that is bound.

    Rows are batched by length; `tick(rows done)` is called after every batch.
    """
    if not suite.rows:
        return []
    tokens = torch.tensor(encoder.label_tokens(suite.rows[0]), device=base.device)
    encoded, _ = encoder.rows(suite.rows)
    found: dict[int, tuple[list[float], int | None]] = {}
    for numbers in _batches(encoded):
        rows = [encoded[at] for at in numbers]
        batch = pack([rows]).to(base.device)
        last = _last_prompt_positions(rows).to(base.device)
        logits = answer_logits(base.model, batch.ids, batch.positions, batch.packed, last)
        scores = torch.log_softmax(logits, dim=-1).index_select(1, tokens).cpu()
        top = logits.argmax(dim=-1)
        hit = (top[:, None] == tokens[None, :]).cpu()
        for at, number in enumerate(numbers):
            found[number] = ([round(s, 5) for s in scores[at].tolist()], int(hit[at].int().argmax()) if bool(hit[at].any()) else None)
        tick(len(found))
    return [Prediction(row.id, row.label, tuple(found[at][0]), found[at][1]) for at, row in enumerate(suite.rows)]


def _last_prompt_positions(rows: Sequence[Encoded]) -> torch.Tensor:
    """Where the first label token is predicted: one position per row in the packed tokens, [N]."""
    positions, at = [], 0
    for row in rows:
        at += len(row.ids)
        positions.append(at - len(row.targets))
    return torch.tensor(positions)


def _batches(rows: Sequence[Encoded]) -> Iterator[list[int]]:
    """Row numbers, longest rows together, at most TOKENS_PER_BATCH tokens at a time."""
    batch: list[int] = []
    size = 0
    for at in sorted(range(len(rows)), key=lambda at: (-len(rows[at].ids), at)):
        if batch and size + len(rows[at].ids) > TOKENS_PER_BATCH:
            yield batch
            batch, size = [], 0
        batch.append(at)
        size += len(rows[at].ids)
    if batch:
        yield batch
