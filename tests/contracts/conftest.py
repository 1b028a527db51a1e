"""Rows of the contracts' studies."""

from pathlib import Path

import pytest

from examples.drawn_memes import write_task
from tests.rows import write_sums


@pytest.fixture
def with_sums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invented sums as this process's `$P2P_DIST_DATA`."""
    write_sums(tmp_path / "data", range(200, 280))
    monkeypatch.setenv("P2P_DIST_DATA", str(tmp_path / "data"))


@pytest.fixture(scope="session")
def memes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn images with captions, in the format of Hateful Memes."""
    return write_task(tmp_path_factory.mktemp("memes"), 60, 24)
