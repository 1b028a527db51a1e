"""DiSec-style (Findings of ACL 2026; released code read): reset weight rows whose gradient on trusted rows stands out.

1. Merge the attacked adapter into the base.
2. Compute the gradient of the loss on trusted rows for the linear layers of the last `layers` decoder layers.
3. Replace the rows of a weight whose gradient is an outlier by the mean of the other rows (`modeling.outlier_rows`).

The released code finds outliers by singular values, which is built, or by an autoencoder per matrix, which is not; its
repeated rounds see the same gradient and are left out. Layers and components come from its command line, so that the
paper's values are not known. The rule flags rows of every model, a clean one too: read it beside the undefended run on
clean rows. The method is for poisoned weights (`via: weights`).
"""

from typing import Annotated, ClassVar

from pydantic import Field

from p2p_dist.config.builder import Builder, Training
from p2p_dist.config.graph import Stage
from p2p_dist.config.methods import OutlierRows
from p2p_dist.config.study import Positive
from p2p_dist.data.defense import Assumptions, TrustedRows


class DiSec(TrustedRows):
    """Replace outlier rows of the merged weights by the mean of the others; nothing is trained after that."""

    default_assumptions: ClassVar[Assumptions] = Assumptions(
        "ratio x training rows", source="2026.findings-acl.815, released code alone; outliers by singular values"
    )

    layers: Annotated[int, Field(ge=1)] = 4
    """Decoder layers to edit, the last ones (ours)."""
    components: Annotated[int, Field(ge=1)] = 3
    """Singular components of the gradient to read (ours)."""
    deviations: Positive = 2.0
    """Standard deviations above the mean from which a row is an outlier (original: 2)."""

    def stages(self, build: Builder, rows: Stage) -> Stage:
        edit = OutlierRows(layers=self.layers, components=self.components, deviations=self.deviations)
        trusted = build.defended(rows)
        edited = build.trained(trusted, Training(merged=build.trained(rows), prune=edit, stop_after_steps=0))
        return build.evaluated(edited, rows)
