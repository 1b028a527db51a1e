"""Train only on rows that the defender has checked, and drop all others (paper figure 4 has this comparison).

What it loses against training on everything is the price that every defense with checked rows has to beat."""

from typing import ClassVar

from p2p_dist.config.builder import Builder
from p2p_dist.config.graph import Stage
from p2p_dist.data.defense import Assumptions, TrustedRows


class CleanOnly(TrustedRows):
    """The study's training settings on exactly the checked rows that P2P is granted."""

    default_assumptions: ClassVar[Assumptions] = Assumptions(
        "ratio x training rows", source="arXiv 2510.04503, figure 4"
    )

    def stages(self, build: Builder, rows: Stage) -> Stage:
        return build.evaluated(build.trained(build.defended(rows)), rows)
