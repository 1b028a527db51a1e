"""Sizes of inference passes."""

from types import SimpleNamespace

import pytest
import torch

from p2p_dist.modeling.batching import TOKENS_PER_BATCH, by_length, tokens_per_pass
from p2p_dist.planning.inference import TOKENS_ON_LARGE_GPU


@pytest.mark.parametrize(
    ("device", "gigabytes", "tokens"),
    [("cpu", 0, TOKENS_PER_BATCH), ("cuda", 24, TOKENS_PER_BATCH), ("cuda", 141, TOKENS_ON_LARGE_GPU)],
)
def test_tokens_of_a_pass_depend_on_the_kind_of_device(
    device: str, gigabytes: int, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    properties = SimpleNamespace(total_memory=gigabytes * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert tokens_per_pass(torch.device(device)) == tokens


def test_batches_hold_every_row_once_within_the_limit() -> None:
    lengths = [5, 90, 30, 30, 7, 200]
    batches = list(by_length(lengths, 100))
    assert sorted(index for batch in batches for index in batch) == list(range(6))
    assert all(sum(lengths[index] for index in batch) <= 100 for batch in batches if len(batch) > 1)
