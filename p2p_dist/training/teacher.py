"""A teacher for a training: what another adapter of the same base makes of the rows, looked up once before the first
step."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from p2p_dist.modeling.base import Base
from p2p_dist.modeling.batching import by_length, tokens_per_pass
from p2p_dist.modeling.forward import answer_states
from p2p_dist.modeling.lora import Adapters
from p2p_dist.modeling.packing import grouping, pack
from p2p_dist.modeling.tokenization import Encoded


@torch.no_grad()
def taught(base: Base, adapters: Adapters, run: int, teacher: torch.Tensor, rows: Sequence[Encoded]) -> list[Encoded]:
    """The rows with the last hidden states at their answers that the `teacher` [P] has, without dropout, in the host's
    memory.

    The teacher's numbers stay behind as the compute copy of that run, for the training to replace.
    """
    adapters.load(run, teacher)
    adapters.select_runs(slice(run, run + 1))
    adapters.no_dropout()
    taught_rows: dict[int, Encoded] = {}
    for numbers in by_length([len(row.ids) for row in rows], tokens_per_pass(base.device)):
        chosen = [rows[index] for index in numbers]
        batch = pack([chosen], grouping(base.device)).to(base.device)
        states = answer_states(base.model, batch.ids, batch.positions, batch.packed, batch.answers).cpu()
        parts = states.split([len(row.targets) for row in chosen])
        taught_rows.update(
            (index, replace(row, taught=part.clone())) for index, row, part in zip(numbers, chosen, parts, strict=True)
        )
    return [taught_rows[index] for index in range(len(rows))]
