"""Digests of model files: old ids of small folders, whole files for the others, and the cache of large ones."""

import hashlib
import os
from pathlib import Path

import pytest

from p2p_dist import assets
from p2p_dist.model_files import digest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("P2P_DIST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    (made / "config.json").write_text("{}")
    (made / "model.safetensors").write_bytes(b"0123456789" * 10)
    return made


def age(path: Path, seconds: float = 60) -> None:
    """Set the time of the last change into the past."""
    time = path.stat().st_mtime - seconds
    os.utime(path, (time, time))


def test_folder_digest_small_files_is_golden(folder: Path) -> None:
    """Small folders keep the id of earlier versions: names, sizes and content in one hash."""
    expected = hashlib.sha256(b"config.json:2:{}model.safetensors:100:" + b"0123456789" * 10).hexdigest()[:12]
    assert digest.folder_digest(folder) == expected == "0f4871f84a3f"


def test_folder_digest_large_file_reads_its_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two models that differ behind the first 64 MiB are two models."""
    monkeypatch.setattr(digest, "SMALL", 50)
    before = digest.folder_digest(folder)
    (folder / "model.safetensors").write_bytes(b"0123456789" * 9 + b"012345678X")
    assert digest.folder_digest(folder) != before


def test_file_sha256_unchanged_file_is_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest of a file whose path, size, time and inode are the same comes from the cache."""
    file = folder / "model.safetensors"
    age(file)
    expected = assets.file_sha256(file)
    assert digest.file_sha256(file) == expected
    monkeypatch.setattr(assets, "file_sha256", lambda path: pytest.fail("the file was read again"))
    assert digest.file_sha256(file) == expected


@pytest.mark.parametrize("change", ["content", "time", "another file"])
def test_file_sha256_changed_file_is_read_again(change: str, folder: Path) -> None:
    """Content of equal size with another time, a changed time, and a file that was renamed over it."""
    file = folder / "model.safetensors"
    age(file)
    digest.file_sha256(file)
    if change == "another file":
        other = folder / "other"
        other.write_bytes(b"X" * 100)
        os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
        other.replace(file)
    else:
        file.write_bytes(b"X" * 100 if change == "content" else file.read_bytes())
    assert digest.file_sha256(file) == assets.file_sha256(file)


def test_file_sha256_fresh_file_is_not_remembered(folder: Path, cache: Path) -> None:
    """A file that may change again within the resolution of its time stamp is hashed each time."""
    digest.file_sha256(folder / "model.safetensors")
    assert not (cache / "digests").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"sha256": 3}'])
def test_file_sha256_damaged_cache_is_ignored(content: bytes, folder: Path, cache: Path) -> None:
    file = folder / "model.safetensors"
    age(file)
    expected = digest.file_sha256(file)
    (entry,) = (cache / "digests").iterdir()
    entry.write_bytes(content)
    assert digest.file_sha256(file) == expected


def test_file_sha256_unwritable_cache_costs_time_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder / "model.safetensors"
    age(file)
    monkeypatch.setenv("P2P_DIST_CACHE", str(file))  # no folder can be made there
    assert digest.file_sha256(file) == assets.file_sha256(file)
