"""Check of a base that reads images: packed rows with images of two sizes against each row alone through the model's
own forward pass, with its own placeholders, positions and pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from p2p_dist.errors import user_error
from p2p_dist.modeling import attention
from p2p_dist.modeling.body import family_of, in_vision_tower
from p2p_dist.modeling.forward import answer_logits
from p2p_dist.modeling.image_tokens import features_of_pixels, forget_images, table_of
from p2p_dist.modeling.packing import pack
from p2p_dist.modeling.tokenization import Encoded

_GRIDS = ((4, 6), (2, 4))
"""Patches of two images, rows and columns; four patches are one token."""


@dataclass(frozen=True)
class _Image:
    pixels: torch.Tensor
    grid: torch.Tensor


def has_tower(model: Any) -> bool:
    """True for a model that reads images."""
    return any(in_vision_tower(model, name) for name, _ in model.named_parameters())


def require_no_tower(model: Any, is_full: bool) -> None:
    """Raises UserError E297 for a model that reads images, on every rank alike: its tower is frozen, and ZeRO-3 would
    cut it. `is_full`: all weights are to be trained."""
    if not has_tower(model):
        return
    tower = f"{family_of(model)} has a vision tower"
    if is_full:
        what = f"{tower}, which is frozen, and all weights are to be trained"
        raise user_error("E297", what, "train.method", "set train.method=lora")
    raise user_error("E297", f"{tower}, which is not built for ZeRO-3", "--zero 3", "use --zero 2, or no ZeRO at all")


@torch.no_grad()
def rows_with_images(model: Any, words: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the last token of rows with an image, with another one and with none, [3, V] in fp32: ours and the
    model's own. `words` are the texts of the rows. The model holds no images afterwards."""
    images = [_invented(model, *grid) for grid in _GRIDS]
    try:
        ours = _our_logits(model, [*images, None], words)
    finally:
        forget_images(model)
    before = model.config._attn_implementation
    attention.use_implementation(model, "eager")
    reference = [_own_logits(model, image, ids) for image, ids in zip([*images, None], words, strict=True)]
    attention.use_implementation(model, before)
    model.model.rope_deltas = None  # state that the model's own pass leaves behind
    return ours, torch.stack(reference)


def _invented(model: Any, rows: int, columns: int) -> _Image:
    """An image of fixed random pixels."""
    vision = model.config.vision_config
    size = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    pixels = torch.randn(rows * columns, size, generator=torch.Generator().manual_seed(rows))
    return _Image(pixels.to(model.device), torch.tensor([[1, rows, columns]], device=model.device))


def _our_logits(model: Any, images: Sequence[_Image | None], words: Sequence[Sequence[int]]) -> torch.Tensor:
    rows = []
    for index, (image, ids) in enumerate(zip(images, words, strict=True)):
        tokens: list[int] = []
        if image is not None:
            features = features_of_pixels(model, image.pixels, image.grid)
            size = (int(image.grid[0, 1]) // 2, int(image.grid[0, 2]) // 2)
            tokens = list(table_of(model).add((str(index),), features, size))
        rows.append(Encoded(str(index), [ids[0], *tokens, *ids[1:]], [0]))
    batch = pack([rows]).to(model.device)
    return answer_logits(model, batch.ids, batch.positions, batch.packed, batch.answers)


def _own_logits(model: Any, image: _Image | None, words: Sequence[int]) -> torch.Tensor:
    """Logits of the last token, [V]."""
    count = 0 if image is None else len(image.pixels) // 4
    ids = [words[0], *[model.config.image_token_id] * count, *words[1:]]
    arguments: dict[str, torch.Tensor] = {}
    if image is not None:
        kinds = [0, *[1] * count, *[0] * (len(words) - 1)]
        arguments = {
            "pixel_values": image.pixels,
            "image_grid_thw": image.grid,
            "mm_token_type_ids": torch.tensor([kinds], device=model.device),
        }
    output = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False, **arguments)
    return output.logits[0, -1].float()
