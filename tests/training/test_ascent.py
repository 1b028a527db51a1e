"""Gradient ascent: minus the cross-entropy, without a gradient once a token is unlearned."""

import pytest
import torch

from p2p_dist.modeling.packing import pack
from p2p_dist.training.objectives import ascent, cross_entropy
from tests.training.test_cohort import rows
from tests.training.test_objectives import adapted, drawn


def test_ascent_is_minus_cross_entropy_until_its_cap() -> None:
    base, adapters = adapted()
    adapters.load(0, drawn(adapters, 2))
    batch = pack([rows(6, 0)])
    counts = torch.tensor([len(batch.targets)])
    usual = float(cross_entropy(base, batch, counts).detach())
    assert float(ascent(base, batch, counts, cap=1e6).detach()) == pytest.approx(-usual)
    assert float(ascent(base, batch, counts, cap=0.01).detach()) == pytest.approx(-0.01)
