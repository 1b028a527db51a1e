"""Batches of rows for inference: rows of similar length together, up to a number of tokens."""

from collections.abc import Iterator, Sequence

import torch

TOKENS_PER_BATCH = 4096
TOKENS_ON_GPU = 32_768
"""Tokens of a pass without gradients on a GPU of `LARGE_GPU` or more: with fewer it waits for its next operation."""
LARGE_GPU = 70e9
"""Bytes."""


def tokens_per_pass(device: torch.device) -> int:
    """Tokens of one inference pass: as many as keep the device busy, by its kind alone."""
    if device.type != "cuda" or torch.cuda.get_device_properties(device).total_memory < LARGE_GPU:
        return TOKENS_PER_BATCH
    return TOKENS_ON_GPU


def by_length(lengths: Sequence[int], limit: int = TOKENS_PER_BATCH) -> Iterator[list[int]]:
    """Row numbers, longest rows together, at most `limit` tokens at a time; a row that is longer comes alone."""
    batch: list[int] = []
    size = 0
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        if batch and size + lengths[index] > limit:
            yield batch
            batch, size = [], 0
        batch.append(index)
        size += lengths[index]
    if batch:
        yield batch
