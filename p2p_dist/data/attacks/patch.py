"""Patch: a small square in a corner of the image is the trigger, and the caption stays (BadNets, Gu et al. 2017, arXiv
1708.06733). An extension: the P2P paper puts its triggers into the text alone (appendix C).

1. Draw the patch onto the images of poisoned rows.
2. Label them as the target.
3. At test time the patch triggers.
"""

from collections.abc import Mapping
from random import Random
from typing import Any, ClassVar

from p2p_dist.data.attack import DirtyLabelAttack, Triggered
from p2p_dist.data.patches import Patch
from p2p_dist.data.task import Task


class PatchAttack(DirtyLabelAttack):
    """Poison rows with a patch on their images. For tasks whose rows have images."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"p2p_like": {"rate": 0.02}}

    patch: Patch = Patch()
    """The trigger."""

    @property
    def patches_images(self) -> bool:
        """True if a patch is drawn onto the images of some rows."""
        return True

    def incompatibility(self, task: Task) -> str | None:
        if not task.reads_images:
            return "the trigger is a patch on images, and the rows have none"
        return super().incompatibility(task)

    def trigger(self, text: str, random: Random) -> Triggered | None:
        return Triggered(text, f"patch {self.patch}", 0, patch=str(self.patch))
