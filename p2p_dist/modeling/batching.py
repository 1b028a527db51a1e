"""Batches of rows for inference: rows of similar length together, up to a number of tokens."""

from collections.abc import Iterator, Sequence

import torch

from p2p_dist.planning import inference

TOKENS_PER_BATCH = inference.TOKENS_PER_PASS


def tokens_per_pass(device: torch.device) -> int:
    """Tokens of one inference pass: as many as keep the device busy, by its kind alone."""
    return inference.tokens_per_pass(gpu_bytes(device) if device.type == "cuda" else None)


def gpu_bytes(device: torch.device) -> int:
    """Memory of a GPU in bytes, used or not."""
    return torch.cuda.get_device_properties(device).total_memory


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
