"""One backend of each kind for all tests of this folder: Ray keeps the token of its first start in a process."""

from collections.abc import Iterator

import pytest

from p2p_dist import registry
from p2p_dist.scheduling.backend import Backend


@pytest.fixture(scope="session", params=registry.names("backends"))
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Two GPUs on paper: nothing uses them but the numbers in CUDA_VISIBLE_DEVICES."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
        made: Backend = registry.load("backends", request.param)(cpus=2, gpus=2)
    yield made
    made.close()
