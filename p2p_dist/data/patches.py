"""Patches: coloured squares that are drawn onto the images of rows, as a trigger or a benign trigger (BadNets, arXiv
1708.06733).

A row names its patches; they are drawn when its image is read, so that no image file is written.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from p2p_dist.config.study import Strict

if TYPE_CHECKING:
    from PIL.Image import Image

Corner = Literal["top_left", "top_right", "bottom_left", "bottom_right"]


class Patch(Strict):
    """A square in a corner of an image."""

    corner: Corner = "bottom_right"
    colour: Annotated[str, Field(pattern=r"^#[0-9a-f]{6}$")] = "#ff00ff"
    """Red, green and blue in hex digits."""
    size: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Side of the square as a share of the image's shorter side."""

    def __str__(self) -> str:
        return f"{self.corner} {self.colour} {self.size:g}"

    @classmethod
    def of(cls, text: str) -> "Patch":
        """The inverse of `str`. Raises ValueError."""
        corner, colour, size = text.split(" ")
        return cls.model_validate({"corner": corner, "colour": colour, "size": float(size)})

    def drawn_on(self, image: "Image") -> "Image":
        """A copy of an RGB image with this patch, of at least one pixel."""
        side = max(1, round(self.size * min(image.size)))
        left = 0 if self.corner.endswith("left") else image.width - side
        top = 0 if self.corner.startswith("top") else image.height - side
        patched = image.copy()
        patched.paste(self.colour, (left, top, left + side, top + side))
        return patched
