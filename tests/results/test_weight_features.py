"""The weight scan: features of updates without their dense matrix, and distances to clean adapters."""

import numpy as np
import pytest

from p2p_dist.results.weight_features import WeightFeatures, distance, kurtosis, rank_among, singular_values, spectrum

DRAW = np.random.default_rng(1)


def matrices(size: float = 1.0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    shapes = {
        f"model.layers.{layer}.self_attn.{kind}": (4, 20, 30) for layer in (0, 1) for kind in ("q_proj", "o_proj")
    }
    return {
        name: (DRAW.normal(size=(r, inner)), size * DRAW.normal(size=(out, r)))
        for name, (r, inner, out) in shapes.items()
    }


def test_spectral_features_equal_those_of_the_dense_update() -> None:
    """Golden value: singular values from two QR factors equal those of the dense scale * B A to 1e-12."""
    a, b = DRAW.normal(size=(4, 50)), DRAW.normal(size=(40, 4))
    dense = np.linalg.svd(0.5 * b @ a, compute_uv=False)[:4]
    assert singular_values(a, b, 0.5) == pytest.approx(dense, rel=1e-12)
    features = spectrum(singular_values(a, b, 0.5))
    assert features["norm"] == pytest.approx(np.linalg.norm(0.5 * b @ a), rel=1e-12)
    energies = dense**2 / (dense**2).sum()
    assert features["energy_share"] == pytest.approx(energies[0], rel=1e-12)
    assert features["entropy"] == pytest.approx(-(energies * np.log(energies)).sum(), rel=1e-12)


def test_spectrum_of_rank_one_has_entropy_zero() -> None:
    features = spectrum(singular_values(np.ones((1, 6)), np.ones((5, 1)), 2.0))
    assert features["energy_share"] == 1.0
    assert features["entropy"] == 0.0
    assert features["largest"] == pytest.approx(2 * 30**0.5)


def test_kurtosis_of_a_sample_is_near_that_of_all_entries() -> None:
    a, b = DRAW.normal(size=(8, 600)), DRAW.normal(size=(500, 8))
    dense = (b @ a).ravel()
    exact = float(((dense - dense.mean()) ** 4).mean() / dense.var() ** 2)
    assert kurtosis(a, b) == pytest.approx(exact, rel=0.05)
    small_a, small_b = a[:, :40], b[:30]
    few = (small_b @ small_a).ravel()
    assert kurtosis(small_a, small_b) == pytest.approx(((few - few.mean()) ** 4).mean() / few.var() ** 2)


def test_weight_features_are_means_over_layers_by_kind() -> None:
    features = WeightFeatures.of(matrices(), 2.0)
    assert sorted(features.modules) == ["o_proj", "q_proj"]
    layers = [value for name, value in features.norms.items() if name.endswith("q_proj")]
    assert len(layers) == 2
    assert features.modules["q_proj"]["norm"] == pytest.approx(sum(layers) / 2)
    empty = {name: (a, 0 * b) for name, (a, b) in matrices().items()}
    assert WeightFeatures.of(empty, 2.0).modules == {}


def test_distance_of_larger_updates_exceeds_that_of_clean_ones() -> None:
    clean = [WeightFeatures.of(matrices(), 1.0) for _ in range(8)]
    among = [distance(one, [other for other in clean if other is not one]) for one in clean]
    far = distance(WeightFeatures.of(matrices(10.0), 1.0), clean)
    near = distance(WeightFeatures.of(matrices(), 1.0), clean)
    assert far is not None
    assert near is not None
    of_clean = [one.features for one in among if one is not None]
    assert len(of_clean) == 8
    assert far.features > max(of_clean)
    assert rank_among(far.features, of_clean) == 1 / 9
    assert near.features < far.features


def test_distance_to_other_layers_or_one_adapter_is_none() -> None:
    one, other = WeightFeatures.of(matrices(), 1.0), WeightFeatures.of(matrices(), 1.0)
    assert distance(one, [other]) is None
    assert distance(one, [other, other]) is None  # no feature differs
    without = {name: pair for name, pair in matrices().items() if name.endswith("q_proj")}
    assert distance(WeightFeatures.of(without, 1.0), [one, other]) is None
