"""Clean only: train on trusted rows and drop all others (P2P paper, appendix C, figure 4, "subset").

Its loss against training on all rows is the price that every defense with trusted rows has to beat.
"""

from typing import ClassVar

from p2p_dist.config.builder import Builder
from p2p_dist.config.graph import Stage
from p2p_dist.data.defense import Assumptions, TrustedRows


class CleanOnly(TrustedRows):
    """Train with the study's settings on the trusted rows that P2P is granted, and on nothing else."""

    default_assumptions: ClassVar[Assumptions] = Assumptions(
        "ratio x training rows", source="arXiv 2510.04503, figure 4"
    )

    def stages(self, build: Builder, rows: Stage) -> Stage:
        return build.evaluated(build.trained(build.defended(rows)), rows)
