"""Gradients of the output projection without a backward pass: equal to autograd's; traps of one-token answers."""

import math

import pytest
import torch
from scipy.fft import dctn

from p2p_dist.scores.gradients import RowGradient, dct, entropy, inner_products, row_gradient, unit_components
from p2p_dist.scores.states import principal_components

VOCABULARY, WIDTH, BLOCK = 24, 16, 4


def row(tokens: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Last hidden states [T, d], targets [T] and an untied output projection [V, d]."""
    random = torch.Generator().manual_seed(seed)
    states = torch.randn(tokens, WIDTH, generator=random)
    targets = torch.randint(VOCABULARY, (tokens,), generator=random)
    head = torch.randn(VOCABULARY, WIDTH, generator=torch.Generator().manual_seed(99))
    return states, targets, head


def errors_of(states: torch.Tensor, targets: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    errors = torch.softmax(states @ head.T, dim=-1)
    errors[torch.arange(len(targets)), targets] -= 1
    return errors


def by_autograd(states: torch.Tensor, targets: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    head = head.clone().requires_grad_()
    torch.nn.functional.cross_entropy(states @ head.T, targets).backward()
    assert head.grad is not None
    return head.grad


def test_inner_products_equal_those_of_transformed_autograd() -> None:
    """The DCT of autograd's gradient of an untied head, cropped to its low frequencies."""
    rows = [row(tokens, seed) for seed, tokens in enumerate((1, 3, 7, 2))]
    blocks = [
        torch.from_numpy(dctn(by_autograd(*one).numpy(), type=2))[: VOCABULARY // BLOCK, : WIDTH // BLOCK].flatten()
        for one in rows
    ]
    expected = torch.stack(blocks).double()
    products = inner_products([row_gradient(errors_of(*one), one[0], BLOCK) for one in rows])
    assert torch.allclose(products, expected @ expected.T, rtol=1e-4, atol=1e-4 * float(products.abs().max()))


def test_dct_is_scipys() -> None:
    signals = torch.randn(3, 10, dtype=torch.float64)
    assert torch.allclose(dct(signals), torch.from_numpy(dctn(signals.numpy(), type=2, axes=[1])), atol=1e-12)


def test_entropy_equals_that_of_singular_values() -> None:
    states, targets, head = row(9, 5)
    errors = errors_of(states, targets, head)
    singular = torch.linalg.svdvals((errors.T @ states).double())[:16]
    shares = singular / singular.sum()
    expected = float(-torch.xlogy(shares, shares).sum()) / math.log(16)
    assert entropy(errors, states) == pytest.approx(expected, abs=1e-6)


def test_entropy_one_answer_token_has_rank_one() -> None:
    states, targets, head = row(1, 3)
    assert abs(entropy(errors_of(states, targets, head), states)) < 1e-10


def test_unit_components_have_unit_variance() -> None:
    points = torch.randn(50, 6, dtype=torch.float64) * torch.tensor([9.0, 5.0, 3.0, 1e-9, 1e-9, 1e-9])
    coordinates = unit_components(points @ points.T, 32)
    assert coordinates.shape == (50, 3), "rounding errors are no components"
    assert torch.allclose(coordinates.var(0, unbiased=False), torch.ones(3, dtype=torch.float64))


def test_one_token_labels_cluster_by_label() -> None:
    """The trap of label tasks: two clusters of all rows are the two labels, whatever the texts are."""
    from p2p_dist.data.clustering import by_average_cosine

    random = torch.Generator().manual_seed(0)
    head = torch.randn(VOCABULARY, WIDTH, generator=random) * 0.1
    gradients: list[RowGradient] = []
    labels = [n % 3 == 0 for n in range(60)]
    for label in labels:
        states = torch.ones(1, WIDTH) + 0.3 * torch.randn(1, WIDTH, generator=random)
        gradients.append(row_gradient(errors_of(states, torch.tensor([5 if label else 11]), head), states, 2))
    clusters = by_average_cosine(unit_components(inner_products(gradients), 1).tolist(), 2)
    assert len({(label, cluster) for label, cluster in zip(labels, clusters, strict=True)}) == 2


def test_principal_components_keep_distances() -> None:
    points = torch.randn(20, 5, dtype=torch.float64)
    assert torch.allclose(
        torch.cdist(principal_components(points, 5), principal_components(points, 5)), torch.cdist(points, points)
    )
