"""Distances of hidden states to those of trusted rows."""

import numpy as np
import pytest
import torch

from p2p_dist.scores.clean_distance import change_share, mahalanobis, separated_layers, shrunk_covariance

STREAM = torch.Generator().manual_seed(0)


def points(count: int, size: int = 5) -> torch.Tensor:
    return torch.randn(count, size, generator=STREAM, dtype=torch.float64)


def test_shrunk_covariance_is_by_its_formula() -> None:
    rows = points(40)
    covariance = np.cov(rows.numpy().T, bias=True)
    expected = 0.9 * covariance + 0.1 * np.trace(covariance) / 5 * np.eye(5)
    assert shrunk_covariance(rows).numpy() == pytest.approx(expected)
    assert float(torch.linalg.det(shrunk_covariance(points(2)))) > 0  # fewer rows than dimensions


def test_mahalanobis_is_the_mean_over_layers() -> None:
    centres, inverses = torch.zeros(2, 3), torch.stack([torch.eye(3), 4 * torch.eye(3)])
    states = torch.tensor([[3.0, 4.0, 0.0], [0.0, 1.0, 0.0]])
    assert mahalanobis(states, centres, inverses) == pytest.approx((5 + 2) / 2)


def test_separated_layers_are_those_that_tell_the_classes() -> None:
    labels = torch.tensor([0, 1] * 20)
    states = points(40, 4 * 6).view(40, 4, 6)
    states[:, 2] += 5 * labels[:, None]
    states[:, 0] += 2 * labels[:, None]
    assert separated_layers(states, labels, 2).tolist() == [2, 0]


def test_change_share_of_one_direction_is_one() -> None:
    steps = torch.outer(torch.arange(5.0), torch.ones(8))
    assert change_share(steps) == pytest.approx(1.0)
    assert change_share(points(6, 8)) < 0.9
