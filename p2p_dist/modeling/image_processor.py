"""Pixels of an image as a vision tower takes them: resized to a number of tokens, normalised and cut into patches."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from p2p_dist.errors import user_error
from p2p_dist.model_files.folder import read_json

if TYPE_CHECKING:
    from PIL.Image import Image

FILE = "preprocessor_config.json"
LEAST_TOKENS = 4
"""Tokens that a small image is enlarged to (Qwen2-VL's `min_pixels`, 56 x 56)."""
_USUAL = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "do_convert_rgb": True,
    "resample": 3,
    "rescale_factor": 1 / 255,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
}
"""Settings that are not read from a file; one that has another value is refused."""


@dataclass(frozen=True)
class ImageProcessor:
    """Settings of a model's image processor: the mean and deviation of each colour, None for those of CLIP."""

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @classmethod
    def of_folder(cls, folder: Path) -> "ImageProcessor":
        """The processor of a saved model. Raises UserError E275 for a file that is missing or asks for other steps than
        those of Qwen2.5-VL."""
        file = folder / FILE
        if not file.is_file():
            what = f"folder has no {FILE}, which says how images are normalised"
            raise user_error("E275", what, str(folder), "copy the file from the folder of the published model")
        settings = read_json(file)
        other = [f"{key}={settings[key]}" for key, usual in _USUAL.items() if not _is_usual(settings, key, usual)]
        if other:
            what = f"images are prepared in another way than for Qwen2.5-VL ({', '.join(other)})"
            raise user_error("E275", what, str(file), "use the file of the published model")
        return cls(_colours(settings, "image_mean", file), _colours(settings, "image_std", file))

    def pixels(self, image: "Image", image_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Patches [n, 1176] of an image in fp32, and their grid [1, 3] (time, rows, columns)."""
        # The processor that transformers names first needs torchvision.
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        area = (_USUAL["patch_size"] * _USUAL["merge_size"]) ** 2
        size = {"shortest_edge": LEAST_TOKENS * area, "longest_edge": image_tokens * area}  # numbers of pixels
        colours = {} if self.mean is None or self.std is None else {"image_mean": self.mean, "image_std": self.std}
        prepared = Qwen2VLImageProcessorPil(size=size, **colours)(images=[image], return_tensors="pt")
        return prepared["pixel_values"], prepared["image_grid_thw"]


def _is_usual(settings: Mapping[str, Any], key: str, usual: float) -> bool:
    value = settings.get(key, usual)
    return isinstance(value, int | float) and abs(value - usual) < 1e-6


def _colours(settings: Mapping[str, Any], key: str, file: Path) -> tuple[float, ...] | None:
    """Three positive numbers, or None where the file has none. Raises UserError E275."""
    value = settings.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 3 or not all(isinstance(one, int | float) for one in value):
        raise user_error("E275", f"{key} is {value!r}, expected three numbers", str(file), "download the file again")
    return tuple(float(one) for one in value)
