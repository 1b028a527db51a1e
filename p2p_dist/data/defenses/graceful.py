"""GraCeFul (COLING 2025, arXiv 2412.02454): cluster the low frequencies of the rows' gradients, drop the smaller part.

1. Take the gradient of every training row's loss with respect to the output projection, before any training.
2. Keep its low-frequency block after a two-dimensional DCT, and 32 principal components of unit variance.
3. Cluster the rows into two by average linkage of cosine distances.
4. Drop the smaller cluster and train on the larger one.

In tasks with labels the one answer token decides the gradient, so that two clusters are two labels; there the rows of
every label are clustered apart. The smaller cluster is dropped even where no row is poisoned.
"""

from typing import Annotated, ClassVar

from pydantic import Field

from p2p_dist.config.builder import Builder
from p2p_dist.config.graph import Stage
from p2p_dist.config.score_methods import AnswerGradients
from p2p_dist.data.clustering import by_average_cosine, largest_cluster
from p2p_dist.data.defense import Assumptions, DataDefense, Defended, DefenderView
from p2p_dist.data.example import Kind, by_id
from p2p_dist.data.filtering import without


class Graceful(DataDefense):
    """Drop the smaller of two clusters of gradients. The model is in evaluation mode (released code: training mode)."""

    kinds: ClassVar[tuple[Kind, ...]] = ("classification", "generation")
    default_assumptions: ClassVar[Assumptions] = Assumptions(
        source="arXiv 2412.02454 and its released code; within every label where answers are labels (ours)"
    )

    components: Annotated[int, Field(ge=2)] = 32
    """Principal components (original: 32)."""
    block: Annotated[int, Field(ge=1)] = 8
    """Keep 1/8 of the frequencies in both directions (original: 8)."""
    clusters: Annotated[int, Field(ge=2)] = 2
    """Clusters, of which the largest stays (original: 2)."""

    def stages(self, build: Builder, rows: Stage) -> Stage:
        gradients = build.scored(rows, AnswerGradients(components=self.components, block=self.block))
        return build.evaluated(build.trained(build.defended(rows, {"gradients": gradients})), rows)

    def defend_train(self, view: DefenderView) -> Defended:
        """The largest cluster of the rows of every label, or of all rows where answers are text (steps 3 and 4)."""
        lines = view.scores["gradients"]["train"]
        dropped: set[str] = set()
        for label in sorted({row.label for row in view.train}):
            rows = by_id(row for row in view.train if row.label == label)
            clusters = by_average_cosine([lines[row.id]["coordinates"] for row in rows], self.clusters)
            largest = largest_cluster(clusters)
            dropped |= {row.id for row, cluster in zip(rows, clusters, strict=True) if cluster != largest}
        return without(view.train, dropped, 1.0, {})
