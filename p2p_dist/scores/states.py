"""Method `answer_states`: the last hidden state of every training row at the position that predicts its answer, by its
principal components."""

from collections.abc import Sequence

import torch

from p2p_dist.config.score_methods import AnswerStates
from p2p_dist.data.example import Row
from p2p_dist.modeling.batching import by_length
from p2p_dist.modeling.forward import answer_states
from p2p_dist.modeling.packing import pack
from p2p_dist.scores.context import Context, Line

NEGLIGIBLE = 1e-6
"""Components whose variance is below this share of the largest are rounding errors."""


def score(context: Context, method: AnswerStates) -> list[Line]:
    """One line per training row: `coordinates`, its first `components` principal components, fewer where the rows have
    fewer."""
    rows = context.built.train
    states = first_answer_states(context, rows)
    coordinates = principal_components(states.double(), method.components)
    context.on_progress(len(rows), len(rows))
    return [
        {"set": "train", "id": row.id, "coordinates": [round(number, 5) for number in of_row]}
        for row, of_row in zip(rows, coordinates.tolist(), strict=True)
    ]


def principal_components(points: torch.Tensor, count: int) -> torch.Tensor:
    """Shapes: points [N, d] -> coordinates [N, at most `count`] along the directions of largest variance."""
    centred = points - points.mean(0)
    variances, directions = torch.linalg.eigh(centred.T @ centred)
    return centred @ directions[:, largest(variances, count)]


def largest(eigenvalues: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the `count` largest of ascending eigenvalues [d], largest first, without negligible ones."""
    first = torch.arange(len(eigenvalues) - 1, -1, -1)[:count]
    return first[eigenvalues[first].cpu() > NEGLIGIBLE * max(float(eigenvalues[-1]), 1e-300)]


@torch.no_grad()
def first_answer_states(context: Context, rows: Sequence[Row]) -> torch.Tensor:
    """The last hidden state at the position that predicts the first label token, [rows, d] in fp32."""
    encoded, _ = context.encoder.rows(rows)
    by_index: dict[int, torch.Tensor] = {}
    for indices in by_length([len(row.ids) for row in encoded]):
        batch = pack([[encoded[index] for index in indices]]).to(context.base.device)
        starts = [sum(len(encoded[index].targets) for index in indices[:k]) for k in range(len(indices))]
        states = answer_states(
            context.base.model, batch.ids, batch.positions, batch.packed, batch.answers[torch.tensor(starts)]
        )
        by_index.update(zip(indices, states.float().cpu(), strict=True))
    return torch.stack([by_index[index] for index in range(len(rows))])
