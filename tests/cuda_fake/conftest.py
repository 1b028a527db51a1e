"""Measurements on the fake GPU, made by one process for all tests of this folder."""

from collections.abc import Iterator

import pytest

from tests.cuda_fake import shim
from tests.cuda_fake.process import Measure, fake_gpu_process


@pytest.fixture(scope="session")
def measure() -> Iterator[Measure]:
    """What a case asks of the fake GPU. Skips where the device cannot be compiled."""
    try:
        shim.compiled()
    except shim.Unavailable as reason:
        pytest.skip(f"no fake CUDA device: {reason}")
    with fake_gpu_process() as ask:
        yield ask
