"""Atomic file writes: a file is complete or absent.

Content is written under a temporary name in the same folder, synced, and then renamed or linked, so that a reader never
sees a partial file, whatever is killed when. Immutable files are committed only while the lease that the worker was
started under is held (fencing).
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
    temporary = _temporary(path)
    _write_synced(temporary, content)
    temporary.replace(path)
    _sync_folder(path.parent)


def write_lines(path: Path, lines: Iterable[bytes]) -> tuple[str, int]:
    """Write or replace a file line by line. Returns its SHA-256 and its size in bytes."""
    temporary, hashed, size = _temporary(path), hashlib.sha256(), 0
    with temporary.open("wb") as file:
        for line in lines:
            file.write(line)
            hashed.update(line)
            size += len(line)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync_folder(path.parent)
    return hashed.hexdigest(), size


def write_json(path: Path, value: Any) -> None:
    """Write or replace a JSON file: sorted keys, indented, no NaN."""
    write_bytes(path, to_json(value))


def to_json(value: Any) -> bytes:
    """Canonical bytes of a JSON file: sorted keys, indented, no NaN (ValueError)."""
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def publish(path: Path, content: bytes) -> None:
    """Write an immutable file. Publishing the same bytes again has no effect.

    `link()` either creates the name or fails, on any file system and without file locks; a rename would replace
    silently. Raises UserError E405 when the file exists with other bytes (the new ones are kept beside it), E506 where
    hard links are not supported.
    """
    temporary = _temporary(path)
    _write_synced(temporary, content)
    try:
        check_fence()
        os.link(temporary, path)
    except OSError as error:
        # A network file system may create the link and lose the reply, so the file itself decides.
        if not path.is_file():
            if error.errno in _NO_LINKS:
                raise user_error(
                    "E506",
                    f"no hard links on this file system ({error.strerror})",
                    str(path.parent),
                    "choose a folder on another file system with --runs-dir",
                ) from error
            raise
        if path.read_bytes() != content:
            conflict = path.with_name(f"{path.name}.conflict-{hashlib.sha256(content).hexdigest()[:8]}")
            temporary.replace(conflict)
            what = f"a different result exists already; the new one is {conflict.name}"
            raise user_error(
                "E405", what, str(path), "compare the two and delete one; one id must mean one content", Exit.INTEGRITY
            ) from None
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a folder atomically: it appears under its name only when the block ends without an error."""
    temporary = _temporary(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in sorted(temporary.rglob("*")):
            if file.is_file():
                _sync(file)
        check_fence()
        temporary.rename(path)
        _sync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary(path: Path) -> Path:
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
    """Digest of the relative names and contents of files: 12 hex digits of SHA-256."""
    hashed = hashlib.sha256()
    for file in files:
        hashed.update(f"{file.relative_to(root)}\x00".encode() + file.read_bytes())
    return hashed.hexdigest()[:12]
