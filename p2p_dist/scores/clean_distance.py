"""Method `clean_distance`: distance of each training row's hidden states from those of trusted rows (DUP, arXiv
2508.01647; its released code).

1. Of half of the trusted rows: mean and shrunk covariance of each layer's states, and the layers in which their classes
   are farthest apart (Calinski-Harabasz).
2. Of every row: Mahalanobis distance to that mean, averaged over these layers; and the share of the largest singular
   value in those of the changes from layer to layer.
3. Standardise both by the other half of the trusted rows, and add them by weight.
"""

import torch

from p2p_dist.config.score_methods import CleanDistance
from p2p_dist.data.example import by_id, smallest
from p2p_dist.errors import user_error
from p2p_dist.scores.context import Context, Line
from p2p_dist.scores.hidden_states import layer_states

SHRINKAGE = 0.1
"""Weight of the scaled identity in the covariance (the default of scikit-learn's ShrunkCovariance)."""
STREAM = "dup.clean"
"""Random stream that draws the trusted rows."""


def score(context: Context, method: CleanDistance) -> list[Line]:
    """One line per training row: `distance`, in standard deviations of the trusted rows.

    Raises UserError E205 for fewer than `method.least` trusted rows: two give no standard deviation.
    """
    reserve = context.built.reserve
    if len(reserve) < method.least:
        what = (
            f"hidden states are compared with those of {method.least} trusted rows or more; {len(reserve)} are reserved"
        )
        raise user_error("E205", what, "defense", f"set rows.reserve={method.rows}")
    chosen = smallest([row.id for row in reserve], method.rows, context.seed, STREAM)
    trusted = by_id(row for row in reserve if row.id in chosen)
    clean = dict(layer_states(context, trusted))
    first = torch.stack([clean[number] for number in range(0, len(trusted), 2)]).double()
    labels = torch.tensor([trusted[number].label for number in range(0, len(trusted), 2)])
    layers = separated_layers(first, labels, method.layers)
    centres = first[:, layers].mean(0)
    inverses = torch.stack([torch.linalg.inv(shrunk_covariance(first[:, layer])) for layer in layers.tolist()])

    def numbers(states: torch.Tensor) -> tuple[float, float]:
        return mahalanobis(states.double()[layers], centres, inverses), change_share(states)

    scale = torch.tensor([numbers(clean[number]) for number in range(1, len(trusted), 2)], dtype=torch.float64)
    mean, deviation = scale.mean(0), scale.std(0).clamp(min=1e-12)
    weights = torch.tensor([1 - method.spectrum, method.spectrum], dtype=torch.float64)
    rows = context.built.train
    distances = [0.0] * len(rows)
    for done, (number, states) in enumerate(layer_states(context, rows), 1):
        of_row = (torch.tensor(numbers(states), dtype=torch.float64) - mean) / deviation
        distances[number] = float(of_row @ weights)
        context.on_progress(done, len(rows))
    return [
        {"set": "train", "id": row.id, "distance": round(distance, 5)}
        for row, distance in zip(rows, distances, strict=True)
    ]


def separated_layers(states: torch.Tensor, labels: torch.Tensor, count: int) -> torch.Tensor:
    """The layers with the largest Calinski-Harabasz score of the labels. Shapes: states [N, layers, d], labels [N] ->
    [count]."""
    values, sizes = labels.unique(return_counts=True)
    means = torch.stack([states[labels == value].mean(0) for value in values])
    between = ((means - states.mean(0)).square().sum(-1) * sizes[:, None]).sum(0) / max(1, len(values) - 1)
    inside = sum(
        (states[labels == value] - mean).square().sum((0, 2)) for value, mean in zip(values, means, strict=True)
    )
    within = torch.as_tensor(inside) / max(1, len(labels) - len(values))
    return (between / within.clamp(min=1e-12)).argsort(descending=True, stable=True)[:count]


def shrunk_covariance(points: torch.Tensor) -> torch.Tensor:
    """Covariance, `SHRINKAGE` of which is the mean variance times the identity. Shapes: [N, d] -> [d, d]."""
    centred = points - points.mean(0)
    covariance = centred.T @ centred / len(points)
    variance = covariance.diagonal().mean().clamp(min=1e-12)
    return (1 - SHRINKAGE) * covariance + SHRINKAGE * variance * torch.eye(len(covariance), dtype=points.dtype)


def mahalanobis(states: torch.Tensor, centres: torch.Tensor, inverses: torch.Tensor) -> float:
    """Mean Mahalanobis distance over layers. Shapes: states, centres [layers, d], inverses [layers, d, d]."""
    apart = states - centres
    squares = torch.einsum("ld,lde,le->l", apart, inverses, apart)
    return float(squares.clamp(min=0).sqrt().mean())


def change_share(states: torch.Tensor) -> float:
    """Share of the largest singular value in those of the changes between layers. Shapes: states [layers + 1, d]."""
    values = torch.linalg.svdvals(states[2:] - states[1:-1])
    return float(values[0] / values.sum().clamp(min=1e-12)) if len(values) else 1.0
