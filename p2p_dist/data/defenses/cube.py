"""CUBE (Cui et al. 2022, arXiv 2206.08514): cluster the hidden states of every class, keep its largest cluster.

1. Train on the suspect rows for one epoch.
2. Take the last hidden state of every training row.
3. Cluster the rows of every given label.
4. Drop all clusters but the largest that have fewer than `min_share` of the label's rows.
5. Train again.

Differences from OpenBackdoor's code: hidden state at the position that predicts the label, principal components in
place of UMAP, and average linkage cut at its largest gap, within the label, in place of HDBSCAN over all rows.
"""

from typing import Annotated, ClassVar

from pydantic import Field

from p2p_dist.config.builder import Builder, Training
from p2p_dist.config.graph import Stage
from p2p_dist.config.score_methods import AnswerStates
from p2p_dist.config.study import Rate
from p2p_dist.data.clustering import by_largest_gap, largest_cluster
from p2p_dist.data.defense import Assumptions, DataDefense, Defended, DefenderView
from p2p_dist.data.example import Row, by_id
from p2p_dist.data.filtering import without


class Cube(DataDefense):
    """Drop the small clusters of every class and train again."""

    default_assumptions: ClassVar[Assumptions] = Assumptions(
        source="arXiv 2206.08514, OpenBackdoor's code; principal components and average linkage in place of UMAP and "
        "HDBSCAN"
    )

    epochs: Annotated[int, Field(ge=1)] | None = 1
    """Passes of the first training (original: 1); null: the study's, which is the undefended adapter."""
    components: Annotated[int, Field(ge=2)] = 32
    """Principal components to cluster in."""
    min_share: Rate = 0.5
    """Share of a label's rows that a cluster beside the largest must have to stay (original: 0.5)."""

    def stages(self, build: Builder, rows: Stage) -> Stage:
        changes = {} if self.epochs is None else {"num_train_epochs": self.epochs}
        first = build.trained(rows, Training(changes=changes))
        filtered = build.defended(rows, {"states": build.scored(rows, AnswerStates(components=self.components), first)})
        return build.evaluated(build.trained(filtered), rows)

    def defend_train(self, view: DefenderView) -> Defended:
        """The largest cluster of every label, and others that are as large as `min_share` (steps 3 and 4)."""
        dropped: set[str] = set()
        clusters: dict[str, list[int]] = {}
        for label in sorted({row.label for row in view.train}):
            rows = by_id(row for row in view.train if row.label == label)
            lost, clusters[str(label)] = self._small_clusters(rows, view)
            dropped |= lost
        return without(view.train, dropped, 1.0, {"clusters": clusters})

    def _small_clusters(self, rows: list[Row], view: DefenderView) -> tuple[set[str], list[int]]:
        """Ids of the rows to drop, and the sizes of all clusters, largest first."""
        lines = view.scores["states"]["train"]
        clusters = by_largest_gap([lines[row.id]["coordinates"] for row in rows])
        sizes = {cluster: clusters.count(cluster) for cluster in set(clusters)}
        large = {cluster for cluster, size in sizes.items() if size >= self.min_share * len(rows)}
        large.add(largest_cluster(clusters))
        dropped = {row.id for row, cluster in zip(rows, clusters, strict=True) if cluster not in large}
        return dropped, sorted(sizes.values(), reverse=True)
