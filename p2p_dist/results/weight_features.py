"""Statistics of an adapter's weights, and its distance to clean adapters: a scan that asks the model nothing.

Of every update W = scale * B A: largest singular value, Frobenius norm, share of the energy in the largest, entropy of
the energies and kurtosis of the entries (the features of arXiv 2602.15195 by its abstract, means over layers), and the
standard deviation over matrices of the standardised norm (arXiv 2605.30189 by its abstract). Both are compared with
adapters of the same base, shape and steps that were trained on clean rows. The distance is ours: no classifier is
trained.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

FEATURES = ("largest", "norm", "energy_share", "entropy", "kurtosis")
LEAST_CLEAN = 3
"""Clean adapters that a comparison needs: two to compare with, one to be compared."""
CAP = 10.0
"""Standard deviations that one feature counts at most: few clean adapters hardly differ in some."""
_SAMPLED = 65_536
"""Entries of an update from which its kurtosis is computed."""
Matrix = npt.NDArray[np.floating]


@dataclass(frozen=True)
class WeightFeatures:
    """Statistics of one adapter."""

    modules: Mapping[str, Mapping[str, float]]
    """Kind of module (`q_proj`) -> feature -> mean over its layers; kinds whose updates are all zero are left out."""
    norms: Mapping[str, float]
    """Frobenius norm of each update, by the full name of its module."""

    @classmethod
    def of(cls, matrices: Mapping[str, tuple[Matrix, Matrix]], scale: float) -> Self:
        """Shapes: A [r, in] and B [out, r] by the full name of their module."""
        by_kind: dict[str, list[dict[str, float]]] = {}
        norms = {}
        for name, (a, b) in sorted(matrices.items()):
            values = singular_values(a, b, scale)
            norms[name] = math.sqrt(float(np.square(values).sum()))
            if norms[name] > 0:
                by_kind.setdefault(name.rpartition(".")[2], []).append({**spectrum(values), "kurtosis": kurtosis(a, b)})
        means = {
            kind: {feature: sum(one[feature] for one in layers) / len(layers) for feature in FEATURES}
            for kind, layers in by_kind.items()
        }
        return cls(means, norms)

    def flat(self) -> dict[str, float]:
        """The features by `kind.feature`."""
        return {f"{kind}.{name}": value for kind, of_kind in self.modules.items() for name, value in of_kind.items()}


def singular_values(a: Matrix, b: Matrix, scale: float) -> Matrix:
    """Singular values [min(r, in, out)] of scale * B A, from the small factors of two QR decompositions.

    Shapes: a [r, in], b [out, r].
    """
    _, of_a = np.linalg.qr(a.T.astype(np.float64))
    _, of_b = np.linalg.qr(b.astype(np.float64))
    values: Matrix = np.linalg.svd(of_b @ of_a.T, full_matrices=False, compute_uv=False)
    return scale * values


def spectrum(values: Matrix) -> dict[str, float]:
    """Features of singular values that are not all zero."""
    energies = np.square(values) / np.square(values).sum()
    present = energies[energies > 0]
    return {
        "largest": float(values.max()),
        "norm": math.sqrt(float(np.square(values).sum())),
        "energy_share": float(energies.max()),
        "entropy": float(-(present * np.log(present)).sum()),
    }


def kurtosis(a: Matrix, b: Matrix) -> float:
    """Fourth central moment over the squared variance of the entries of B A, by a fixed sample of large ones."""
    rows, columns = b.shape[0], a.shape[1]
    if rows * columns <= _SAMPLED:
        entries = (b.astype(np.float64) @ a.astype(np.float64)).ravel()
    else:
        draw = np.random.default_rng(0)
        i, j = draw.integers(rows, size=_SAMPLED), draw.integers(columns, size=_SAMPLED)
        entries = np.einsum("nr,rn->n", b[i].astype(np.float64), a[:, j].astype(np.float64))
    centred = entries - entries.mean()
    variance = float(np.square(centred).mean())
    return float((centred**4).mean()) / variance**2 if variance > 0 else 0.0


@dataclass(frozen=True)
class Distance:
    """Distance of one adapter to clean ones."""

    features: float
    """Mean over the features of |value - mean of the clean ones| in their standard deviations, each at most `CAP`."""
    norms: float
    """Standard deviation over the matrices of the norm, standardised in the same way."""


def distance(adapter: WeightFeatures, clean: Sequence[WeightFeatures]) -> Distance | None:
    """Distance to two or more clean adapters; None where nothing can be compared: other modules, or no feature that
    differs among the clean ones."""
    if len(clean) < 2 or any(one.norms.keys() != adapter.norms.keys() for one in clean):
        return None
    features = _standardised(adapter.flat(), [one.flat() for one in clean])
    norms = _standardised(adapter.norms, [one.norms for one in clean])
    if not features or len(norms) < 2:
        return None
    return Distance(float(np.abs(features).clip(max=CAP).mean()), float(np.std(norms)))


def _standardised(values: Mapping[str, float], clean: Sequence[Mapping[str, float]]) -> list[float]:
    """(value - mean) / standard deviation of the clean ones, of each name that all have and in which they differ."""
    standardised = []
    for name in sorted(values.keys() & set.intersection(*(set(one) for one in clean))):
        others = np.array([one[name] for one in clean])
        deviation = float(others.std(ddof=1))
        if deviation > 0:
            standardised.append((values[name] - float(others.mean())) / deviation)
    return standardised


def rank_among(value: float, clean: Sequence[float]) -> float:
    """Share of the clean distances and of itself that are as large: the p value of a permutation test."""
    return (1 + sum(one >= value for one in clean)) / (1 + len(clean))
