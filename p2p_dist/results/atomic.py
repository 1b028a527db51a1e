"""Atomic file writes: a file is complete or absent.

Content is written under a temporary name in the same folder, synced, and then renamed or linked, so that a reader never
sees a partial file, whatever is killed when. Immutable files are committed only while the lease that the worker was
started under is held (fencing). All calls go through folder handles (`p2p_dist.results.confined`).
"""

import contextlib
import hashlib
import json
import os
import stat
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from p2p_dist.errors import Exit, user_error
from p2p_dist.results import confined
from p2p_dist.results.lease import NO_LINKS, check_fence, without_links


def write_bytes(path: Path, content: bytes) -> None:
    """Write or replace a file. Raises UserError E518 when the storage refuses, E520 for links and folders in its
    place."""
    write_lines(path, [content])


def write_lines(path: Path, lines: Iterable[bytes]) -> tuple[str, int]:
    """Write or replace a file line by line. Returns its SHA-256 and its size in bytes. Raises as `write_bytes` does."""
    hashed, size = hashlib.sha256(), 0
    with confined.writing(path.parent) as folder, _new_file(folder, path) as (file, temporary):
        for line in lines:
            file.write(line)
            hashed.update(line)
            size += len(line)
        _sync(file)
        os.rename(temporary, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)
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
    hard links are not supported, and as `write_bytes` does.
    """
    with confined.writing(path.parent) as folder, _new_file(folder, path) as (file, temporary):
        file.write(content)
        _sync(file)
        check_fence()
        try:
            os.link(temporary, path.name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            _settle_link(path, content, error, folder, temporary)
        os.fsync(folder)


def _settle_link(path: Path, content: bytes, error: OSError, folder: int, temporary: str) -> None:
    """Decide by the file itself after a failed `link()`: a network file system may create it and lose the reply."""
    try:
        existing = confined.read_bytes(path)
    except FileNotFoundError:
        if error.errno in NO_LINKS:
            raise without_links(error, path.parent) from error
        raise error from None
    if existing != content:
        conflict = f"{path.name}.conflict-{hashlib.sha256(content).hexdigest()[:8]}"
        os.rename(temporary, conflict, src_dir_fd=folder, dst_dir_fd=folder)
        what = f"a different result exists already; the new one is {conflict}"
        raise user_error(
            "E405", what, str(path), "compare the two and delete one; one id must mean one content", Exit.INTEGRITY
        ) from None


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a folder atomically: it appears under its name only when the block ends without an error. Raises UserError
    as `write_bytes` does."""
    temporary = path.with_name(temporary_name(path.name))
    confined.make_folder(temporary)
    try:
        yield temporary
        for file in sorted(temporary.rglob("*")):
            if stat.S_ISREG(file.lstat().st_mode):
                with file.open("rb") as content:
                    os.fsync(content.fileno())
        check_fence()
        with confined.writing(path.parent) as folder:
            os.rename(temporary.name, path.name, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)
    finally:
        confined.remove_folder(temporary)


def temporary_name(name: str) -> str:
    """Unused name of an unfinished file or folder."""
    return f".tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}-{name}"


@contextmanager
def _new_file(folder: int, path: Path) -> Iterator[tuple[BinaryIO, str]]:
    """A new file under a temporary name, deleted at the end if it still has that name."""
    temporary = temporary_name(path.name)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(temporary, flags, 0o666, dir_fd=folder), "wb") as file:
            yield file, temporary
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def digest_of(files: list[Path], root: Path) -> str:
    """Digest of the relative names and contents of files: 12 hex digits of SHA-256."""
    hashed = hashlib.sha256()
    for file in files:
        hashed.update(f"{file.relative_to(root)}\x00".encode() + file.read_bytes())
    return hashed.hexdigest()[:12]
