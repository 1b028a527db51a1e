"""Batches of rows for inference: rows of similar length together, up to a number of tokens."""

from collections.abc import Iterator, Sequence

TOKENS_PER_BATCH = 4096


def by_length(lengths: Sequence[int], limit: int = TOKENS_PER_BATCH) -> Iterator[list[int]]:
    """Row numbers, longest rows together, at most `limit` tokens at a time; a row that is longer comes alone."""
    batch: list[int] = []
    size = 0
    for at in sorted(range(len(lengths)), key=lambda at: (-lengths[at], at)):
        if batch and size + lengths[at] > limit:
            yield batch
            batch, size = [], 0
        batch.append(at)
        size += lengths[at]
    if batch:
        yield batch
