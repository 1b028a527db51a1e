"""Clustering of rows by their coordinates, for filters. Pure functions; numpy and scipy are imported when used.

Points are given in a fixed order (rows by id), and nothing but `k_means` draws.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from p2p_dist.errors import user_error

if TYPE_CHECKING:
    import numpy as np

Points = Sequence[Sequence[float]]
"""One point per row, of equal dimensions."""
MOST_ROWS = 20_000
"""Rows that are compared pair by pair: a condensed table of their distances takes 1.6 GB, a square one 3.2 GB."""


def by_average_cosine(points: Points, clusters: int) -> list[int]:
    """Cluster of every point: agglomerative clustering by average linkage of cosine distances, cut into `clusters`."""
    import numpy as np
    from scipy.cluster.hierarchy import fcluster

    array = np.asarray(points, dtype=float)
    if len(array) <= clusters or not array.size or not np.linalg.norm(array, axis=1).all():
        return [0] * len(array)
    return [int(label) for label in fcluster(_linkage(array, "cosine"), clusters, "maxclust")]


def by_largest_gap(points: Points) -> list[int]:
    """Cluster of every point: average linkage of Euclidean distances, cut where the height of merges grows most."""
    import numpy as np
    from scipy.cluster.hierarchy import fcluster

    array = np.asarray(points, dtype=float)
    if len(array) < 3 or not array.size:
        return [0] * len(array)
    tree = _linkage(array, "euclidean")
    heights = tree[:, 2]
    step = int(np.diff(heights).argmax())
    return [int(label) for label in fcluster(tree, (heights[step] + heights[step + 1]) / 2, "distance")]


def require_pairs(rows: int) -> None:
    """Raise UserError E279 for more rows than can be compared pair by pair."""
    if rows > MOST_ROWS:
        what = f"{rows:,} rows are too many to compare in pairs; at most {MOST_ROWS:,} are"
        raise user_error("E279", what, "rows.train", f"set rows.train={MOST_ROWS} or less, or exclude the defense")


def _linkage(array: "np.ndarray", metric: str) -> "np.ndarray":
    """Merges by average linkage. Raises UserError E279 for more rows than `MOST_ROWS`."""
    from scipy.cluster.hierarchy import linkage

    require_pairs(len(array))
    tree: np.ndarray = linkage(array, "average", metric=metric)
    return tree


def largest_cluster(clusters: Sequence[int]) -> int:
    """The cluster with most points; the first in number of those with equally many."""
    counts = Counter(clusters)
    return min(counts, key=lambda cluster: (-counts[cluster], cluster))


def k_means(
    array: "np.ndarray", k: int, seed: int, starts: int = 10, iterations: int = 600
) -> tuple[list[int], list[float]]:
    """Cluster of every point [N, d] and its distance to the centre, of the best of several starts (Lloyd)."""
    import numpy as np

    random, norms = np.random.default_rng(seed), (array**2).sum(1)
    best: tuple[float, np.ndarray, np.ndarray] | None = None
    for _ in range(starts):
        centres = array[random.choice(len(array), k, replace=False)]
        for _ in range(iterations):
            nearest = _squared_distances(array, norms, centres).argmin(1)
            moved = np.stack([array[nearest == c].mean(0) if (nearest == c).any() else centres[c] for c in range(k)])
            if np.allclose(moved, centres, rtol=0, atol=1e-12):
                break
            centres = moved
        squares = _squared_distances(array, norms, centres)
        loss = float(squares.min(1).sum())
        if best is None or loss < best[0]:
            best = (loss, squares.argmin(1), np.sqrt(squares.min(1)))
    assert best is not None, "one start or more"
    return [int(cluster) for cluster in best[1]], [float(distance) for distance in best[2]]


def _squared_distances(array: "np.ndarray", norms: "np.ndarray", centres: "np.ndarray") -> "np.ndarray":
    """Squared distances of N points, of squared norms [N], to k centres: [N, k]."""
    products: np.ndarray = norms[:, None] - 2 * array @ centres.T + (centres**2).sum(1)[None]
    return products.clip(min=0)
