"""Outlier rows of weights: a planted one is found and replaced, and nothing else of the model changes."""

import torch

from p2p_dist.config.methods import OutlierRows
from p2p_dist.modeling.base import load_base
from p2p_dist.modeling.outlier_rows import outliers, replace_outlier_rows
from tests.training.test_cohort import IDENTITY, rows


def drawn(seed: int) -> torch.Tensor:
    return torch.randn(30, 20, generator=torch.Generator().manual_seed(seed))


def test_outliers_are_the_planted_rows() -> None:
    gradient, weight = 0.01 * drawn(0), drawn(1)
    gradient[7] += drawn(2)[7]
    assert outliers(gradient, weight, components=1, deviations=2.0).nonzero().flatten().tolist() == [7]


def test_outliers_do_not_count_what_lies_along_the_weight() -> None:
    gradient, weight = 0.01 * drawn(0), drawn(1)
    gradient[7] += drawn(2)[7]
    shifted = outliers(gradient + 3.0 * weight, weight, components=1, deviations=2.0)
    assert shifted.tolist() == outliers(gradient, weight, components=1, deviations=2.0).tolist()


def test_replaced_rows_are_the_mean_of_the_others() -> None:
    base = load_base(IDENTITY, {}, "float32")
    before = {name: weight.clone() for name, weight in base.model.named_parameters()}
    replaced = replace_outlier_rows(base, OutlierRows(layers=1, components=2, deviations=2.0), rows(6, 0))
    last = base.model.config.num_hidden_layers - 1
    assert replaced
    assert all(f".{last}." in name for name in replaced)
    assert sum(replaced.values()) > 0
    changed = 0
    for name, weight in base.model.named_parameters():
        assert not weight.requires_grad
        rows_changed = (weight != before[name]).reshape(len(weight), -1).any(1)
        if f"{name.removesuffix('.weight')}" not in replaced:
            assert not rows_changed.any()
            continue
        changed += int(rows_changed.sum())
        if rows_changed.any():
            mean = before[name][~rows_changed].mean(0)
            torch.testing.assert_close(weight[rows_changed][0], mean)
    assert changed == sum(replaced.values())
