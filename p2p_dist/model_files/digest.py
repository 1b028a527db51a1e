"""Digests of model files: whole files are hashed, and those of large ones remembered until the file changes."""

import hashlib
import json
import os
import time
from pathlib import Path

from p2p_dist import assets

SMALL = 64 << 20
"""Bytes up to which a file's content goes into the digest of its folder directly, as in ids of earlier versions."""
_SUFFIXES = (".json", ".safetensors", ".model", ".txt")
_SETTLED = 2.0
"""Seconds since its last change after which a file's digest is remembered: a later change moves the time stamp."""


def folder_digest(path: Path) -> str:
    """Twelve hex digits over names, sizes and content of every file of weights, tokenizer or settings in a folder.

    A file of more than 64 MiB goes in by its SHA-256.
    """
    hashed = hashlib.sha256()
    for file in sorted(path.iterdir()):
        if file.suffix in _SUFFIXES and file.is_file():
            size = file.stat().st_size
            hashed.update(f"{file.name}:{size}:".encode())
            hashed.update(file.read_bytes() if size <= SMALL else f"sha256:{file_sha256(file)}".encode())
    return hashed.hexdigest()[:12]


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file, from the cache folder where path, size, time of change and inode are those remembered."""
    status = path.stat()
    place = str(path.resolve())
    key = {"path": place, "size": status.st_size, "mtime_ns": status.st_mtime_ns, "inode": status.st_ino}
    entry = assets.cache_dir() / "digests" / f"{hashlib.sha256(place.encode()).hexdigest()[:24]}.json"
    try:
        remembered = json.loads(entry.read_bytes())
        if isinstance(remembered, dict) and {name: remembered.get(name) for name in key} == key:
            return str(remembered["sha256"])
    except (OSError, ValueError, KeyError):
        pass
    digest = assets.file_sha256(path)
    if time.time() - status.st_mtime > _SETTLED and _unchanged(path, status):
        _remember(entry, json.dumps({**key, "sha256": digest}))
    return digest


def _unchanged(path: Path, before: os.stat_result) -> bool:
    after = path.stat()
    return (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)


def _remember(entry: Path, content: str) -> None:
    """Write an entry of the cache; a cache folder that cannot be written only costs time."""
    temporary = entry.with_name(f".{entry.name}.{os.getpid()}")
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(content)
        temporary.replace(entry)
    except OSError:
        temporary.unlink(missing_ok=True) if entry.parent.is_dir() else None
