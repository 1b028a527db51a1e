"""Files that are either whole or absent.

Written under a temporary name in the same folder, synced, and then renamed or linked; a reader never meets half a file,
whatever is killed when. What never changes is committed only while the lease that the worker was started under is held.
"""

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from p2p_dist.errors import Exit, user_error
from p2p_dist.results.lease import check_fence

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


def write_bytes(path: Path, content: bytes) -> None:
    """Write or replace a file."""
    half = _half(path)
    _write_synced(half, content)
    half.replace(path)
    _sync_folder(path.parent)


def write_lines(path: Path, lines: Iterable[bytes]) -> tuple[str, int]:
    """Write or replace a file line by line. Returns its SHA-256 and its size in bytes."""
    half, hashed, size = _half(path), hashlib.sha256(), 0
    with half.open("wb") as file:
        for line in lines:
            file.write(line)
            hashed.update(line)
            size += len(line)
        file.flush()
        os.fsync(file.fileno())
    half.replace(path)
    _sync_folder(path.parent)
    return hashed.hexdigest(), size


def write_json(path: Path, value: Any) -> None:
    """Write or replace a JSON file: sorted keys, indented, no NaN."""
    write_bytes(path, to_json(value))


def to_json(value: Any) -> bytes:
    """The bytes of a JSON file of ours."""
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def publish(path: Path, content: bytes) -> None:
    """Write a file that must never change. Publishing the same bytes again is fine.

    `link()` either makes the name or fails, on any file system and without file locks; a rename would replace silently.
    Raises UserError E405 when other bytes are there (the new ones are kept beside them), E506 without hard links.
    """
    half = _half(path)
    _write_synced(half, content)
    try:
        check_fence()
        os.link(half, path)
    except OSError as error:
        # A network file system may make the link and lose the answer, so what counts is what is there now.
        if not path.is_file():
            if error.errno in _NO_LINKS:
                raise user_error(
                    "E506",
                    f"no hard links on this file system ({error.strerror})",
                    str(path.parent),
                    "keep the runs on another one",
                ) from error
            raise
        if path.read_bytes() != content:
            kept = path.with_name(f"{path.name}.conflict-{hashlib.sha256(content).hexdigest()[:8]}")
            half.replace(kept)
            what = f"a different result exists already; the new one is {kept.name}"
            raise user_error(
                "E405", what, str(path), "compare the two; same id must mean same content", Exit.INTEGRITY
            ) from None
    finally:
        half.unlink(missing_ok=True)
    _sync_folder(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder that appears under its name only when the block ends without an error."""
    half = _half(path)
    half.mkdir(parents=True)
    try:
        yield half
        for file in sorted(half.rglob("*")):
            if file.is_file():
                _sync(file)
        check_fence()
        half.rename(path)
        _sync_folder(path.parent)
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _half(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}-{path.name}")


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(path: Path) -> None:
    _sync(path)


def digest_of(files: list[Path], root: Path) -> str:
    """Twelve hex digits over the names and contents of files."""
    hashed = hashlib.sha256()
    for file in files:
        hashed.update(f"{file.relative_to(root)}\x00".encode() + file.read_bytes())
    return hashed.hexdigest()[:12]
