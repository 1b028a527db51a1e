"""Images as tokens of a model with a vision tower (Qwen2.5-VL, arXiv 2502.13923).

The tower is frozen, so it reads an image once. Its features stand in a table behind the vocabulary: a token id of the
vocabulary's size or above is one feature. Packing, truncation and trees of words treat such ids as any others; only the
input embeddings and the three-dimensional rotary positions (M-RoPE) are looked up here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from p2p_dist.data import images
from p2p_dist.data.patches import Patch
from p2p_dist.errors import user_error
from p2p_dist.modeling.body import family_of

if TYPE_CHECKING:
    from p2p_dist.data.example import Row
    from p2p_dist.modeling.base import Base
    from p2p_dist.modeling.image_processor import ImageProcessor

Grid = tuple[int, int]
"""Rows and columns of an image's tokens."""


@dataclass
class _Columns:
    """One entry per image token: `features` [n, d]; `shifts` [3, n], its rotary position (time, height, width) less its
    place in the row; `jumps` [n], by how much the tokens behind an image are shifted, at the image's last token."""

    features: torch.Tensor
    shifts: torch.Tensor
    jumps: torch.Tensor


class ImageTable:
    """Features of the images that a model has read."""

    def __init__(self, first: int):
        self.first = first
        """Id of the first image token: the size of the vocabulary."""
        self._ids: dict[tuple[str, ...], range] = {}
        self.shifts: dict[int, int] = {}
        """By how much the tokens behind an image are shifted, by the id of the image's last token."""
        self._parts: list[_Columns] = []
        self._size = 0

    @property
    def is_filled(self) -> bool:
        return self._size > 0

    def ids(self, key: tuple[str, ...]) -> range | None:
        """Token ids of an image; None for one that was not read yet."""
        return self._ids.get(key)

    def add(self, key: tuple[str, ...], features: torch.Tensor, grid: Grid) -> range:
        """Keep the features of an image, [rows * columns, d], and return its token ids."""
        rows, columns = grid
        count = rows * columns
        places = torch.arange(count, device=features.device)
        height, width = places // columns, places % columns
        shifts = torch.stack([torch.zeros_like(places), height, width]) - places
        jumps = torch.zeros_like(places)
        jumps[-1] = max(grid) - count
        self._parts.append(_Columns(features, shifts, jumps))
        start = self.first + self._size
        self._size += count
        self.shifts[start + count - 1] = max(grid) - count
        self._ids[key] = range(start, start + count)
        return self._ids[key]

    def columns(self) -> _Columns:
        """All entries, joined."""
        if len(self._parts) > 1:
            parts, self._parts = self._parts, []
            self._parts = [
                _Columns(
                    torch.cat([part.features for part in parts]),
                    torch.cat([part.shifts for part in parts], dim=1),
                    torch.cat([part.jumps for part in parts]),
                )
            ]
        return self._parts[0]


_TABLES: WeakKeyDictionary[nn.Module, ImageTable] = WeakKeyDictionary()


def table_of(model: nn.Module) -> ImageTable:
    """The table of a model, empty at first."""
    if model not in _TABLES:
        _TABLES[model] = ImageTable(int(model.get_input_embeddings().weight.shape[0]))  # type: ignore[operator]
    return _TABLES[model]


def _filled_table(model: Any) -> ImageTable | None:
    """The table of a model that was given images; None for any other."""
    table = _TABLES.get(model)
    return table if table is not None and table.is_filled else None


def has_image_tokens(model: Any) -> bool:
    """True for a model that was given images: ids of its rows may be those of image tokens."""
    return _filled_table(model) is not None


def forget_images(model: Any) -> None:
    """Empty the table of a model."""
    _TABLES.pop(model, None)


def embedded(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Input embeddings of token ids of any shape, image features included: [..., d]."""
    table, embed = _filled_table(model), model.get_input_embeddings()
    if table is None:
        return embed(ids)
    is_image = ids >= table.first
    words = embed(ids.masked_fill(is_image, 0))
    features = table.columns().features.index_select(0, (ids - table.first).clamp(min=0).reshape(-1))
    return torch.where(is_image[..., None], features.view(words.shape), words)


def rotary_positions(model: Any, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Positions as the model's rotary embeddings take them. Shapes: ids, positions [K, T], places in the rows -> the
    same, or [3, K, T] for a model that was given images (time, height and width; arXiv 2502.13923, section 2.1.3)."""
    table = _filled_table(model)
    if table is None:
        return positions
    columns, flat, places = table.columns(), ids.reshape(-1), positions.reshape(-1)
    is_image, index = flat >= table.first, (flat - table.first).clamp(min=0)
    jumps = columns.jumps[index].masked_fill(~is_image, 0)
    before = jumps.cumsum(0) - jumps
    number = torch.arange(len(flat), device=flat.device)
    row_start = number.masked_fill(places != 0, 0).cummax(0).values
    shifts = columns.shifts[:, index].masked_fill(~is_image, 0)
    return (places + before - before[row_start] + shifts).view(3, *ids.shape)


def shift_behind(model: Any, ids: Sequence[int]) -> int:
    """By how much the rotary positions behind a prompt are shifted: rotary position less place in the row."""
    table = _filled_table(model)
    return 0 if table is None else sum(table.shifts.get(id_, 0) for id_ in ids)


def body_inputs(model: Any, ids: torch.Tensor, positions: torch.Tensor) -> dict[str, torch.Tensor]:
    """Arguments of a model's body for tokens [K, T] at their places in the rows."""
    if not has_image_tokens(model):
        return {"input_ids": ids, "position_ids": positions}
    return {"inputs_embeds": embedded(model, ids), "position_ids": rotary_positions(model, ids, positions)}


@dataclass(frozen=True)
class Images:
    """Images of a run's rows, as the tokens that stand in front of a row."""

    model: Any
    processor: "ImageProcessor"
    folder: Path
    image_tokens: int
    """Tokens of an image at most."""

    @classmethod
    def of(cls, base: "Base", folder: str, image_tokens: int) -> "Images":
        """Raises UserError E227 for a model that reads no images."""
        if base.processor is None:
            what = f"the rows carry images, which {family_of(base.model)} cannot read"
            raise user_error("E227", what, "model", "choose a model with a vision tower, or set task.images=false")
        return cls(base.model, base.processor, Path(folder), image_tokens)

    def tokens(self, row: "Row") -> list[int]:
        """Tokens in front of a row: its image between the marks of the vocabulary, or none.

        Raises UserError E226 for an image that is missing or not the one that the row was built with.
        """
        if row.image is None:
            return []
        key = (row.image_sha256 or row.image, str(self.image_tokens), *row.patches)
        table = table_of(self.model)
        ids = table.ids(key) or self._read(row, key)
        config = self.model.config
        return [config.vision_start_token_id, *ids, config.vision_end_token_id]

    def words(self, ids: Sequence[int]) -> list[int]:
        """The ids that are in the vocabulary."""
        first = table_of(self.model).first
        return [id_ for id_ in ids if id_ < first]

    @torch.no_grad()
    def _read(self, row: "Row", key: tuple[str, ...]) -> range:
        """Let the tower read an image. One at a time, so that its bits do not depend on the other rows."""
        assert row.image is not None
        image = images.read(self.folder, row.image, row.image_sha256)
        for patch in row.patches:
            image = Patch.of(patch).drawn_on(image)
        pixels, grid = self.processor.pixels(image, self.image_tokens)
        features = features_of_pixels(self.model, pixels, grid)
        merge = int(self.model.config.vision_config.spatial_merge_size)
        size = (int(grid[0, 1]) // merge, int(grid[0, 2]) // merge)
        return table_of(self.model).add(key, features, size)


def features_of_pixels(model: Any, pixels: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """The tower's features of one image, [tokens, d] in the model's precision."""
    device = model.get_input_embeddings().weight.device
    output = model.model.get_image_features(pixels.to(device), grid.to(device), return_dict=True)
    return torch.cat(tuple(output.pooler_output)).to(model.dtype)
