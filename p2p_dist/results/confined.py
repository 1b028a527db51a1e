"""Files of run folders, reached by folder handles: nothing outside a run folder is read, written or deleted.

Links below a run folder are refused (`results.folder_handles`). Only regular files are opened: a FIFO would block its
reader for ever.
"""

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

from p2p_dist.errors import Exit, UserError, user_error
from p2p_dist.results.folder_handles import FOLDER, Damaged, opened_folder

LARGEST_JSON = 64 << 20
"""Bytes of the largest small file (JSON) that is read."""
_STORAGE_ERRNOS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE}
)
_MISPLACED_ERRNOS = frozenset({errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY, errno.ELOOP})

Kind = Literal["file", "folder", "link", "other", "missing"]


def kind_of(path: Path) -> Kind:
    """Kind of a path that is not followed if it is a link; `link` too if a folder above it in the run folder is one."""
    try:
        with opened_folder(path.parent) as parent:
            mode = os.stat(path.name, dir_fd=parent, follow_symlinks=False).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    except PermissionError:
        return "other"
    except Damaged:
        return "link"
    return _kind(mode)


def open_file(path: Path) -> BinaryIO:
    """Open a regular file to read. Raises FileNotFoundError, and Damaged for anything else."""
    with opened_folder(path.parent) as parent:
        kind = _kind(os.stat(path.name, dir_fd=parent, follow_symlinks=False).st_mode)
        if kind != "file":
            raise Damaged(f"{_ARTICLES[kind]}, not a file")
        handle = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise Damaged("not a file")
    return os.fdopen(handle, "rb")


@contextmanager
def path_to_open_file(path: Path) -> Iterator[str]:
    """Path by which a library opens the very file that `open_file` opened. Raises what `open_file` does."""
    with open_file(path) as file:
        yield f"/dev/fd/{file.fileno()}"


def read_bytes(path: Path, most: int = LARGEST_JSON) -> bytes:
    """Content of a regular file of at most `most` bytes. Raises FileNotFoundError, and Damaged for anything else."""
    try:
        with open_file(path) as file:
            content = file.read(most + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Damaged(f"cannot be read ({error.strerror})") from error
    if len(content) > most:
        raise Damaged(f"larger than {most >> 20} MiB")
    return content


def names(path: Path) -> list[str]:
    """Sorted names in a folder; none when it is missing or no folder of the run folder."""
    try:
        with opened_folder(path) as handle:
            return sorted(os.listdir(handle))
    except (FileNotFoundError, Damaged):
        return []


def kind_in(name: str, handle: int) -> Kind:
    """Kind of an entry of an open folder, not followed if it is a link."""
    try:
        return _kind(os.stat(name, dir_fd=handle, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return "missing"
    except PermissionError:
        return "other"


def folders_in(path: Path) -> Iterator[tuple[str, int]]:
    """Yield (name, handle) of every folder in a folder; a handle is open until the next one is asked for. Nothing where
    the folder is missing or none of the run folder."""
    try:
        with opened_folder(path) as parent:
            for name in os.listdir(parent):
                try:
                    handle = os.open(name, FOLDER | os.O_NOFOLLOW, dir_fd=parent)
                except (NotADirectoryError, FileNotFoundError, PermissionError):
                    continue
                except OSError as error:
                    if error.errno == errno.ELOOP:
                        continue
                    raise
                try:
                    yield name, handle
                finally:
                    os.close(handle)
    except (FileNotFoundError, Damaged):
        return


def content_of(name: str, handle: int, most: int, last: int | None = None) -> bytes | None:
    """Content of a regular file of at most `most` bytes in an open folder, or its `last` bytes; None for anything
    else."""
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=handle)
    except OSError:
        return None
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_size > most:
            return None
        if last is not None:
            return end_of(file, last)
        with open(file, "rb", buffering=0, closefd=False) as opened:  # a buffer takes longer than a small file
            return opened.read()
    finally:
        os.close(file)


def end_of(file: int, last: int) -> bytes:
    """The last bytes of an open file, at most so many."""
    return os.pread(file, last, max(0, os.fstat(file).st_size - last))


@contextmanager
def writing(path: Path, create: bool = True) -> Iterator[int]:
    """Handle of a folder to write in; it is created first where `create` says so.

    Raises UserError E520 when the path leads through a link or a file, and E518 when the storage refuses: full, read
    only, not permitted.
    """
    try:
        with opened_folder(path, create) as handle:
            yield handle
    except Damaged as error:
        raise _misplaced(str(error), path) from error
    except OSError as error:
        if error.errno in _MISPLACED_ERRNOS:
            raise _misplaced(f"a folder is in the place of a file ({error.filename})", path) from error
        raise storage_error(error, path) or error from error


def _misplaced(why: str, path: Path) -> UserError:
    fix = "move it away and run the same command again; links in a run folder are never followed"
    return user_error("E520", f"nothing is written there: {why}", str(path), fix, Exit.INTEGRITY)


def make_folder(path: Path) -> None:
    """Create a folder and those above it. Raises UserError as `writing` does."""
    with writing(path):
        return


def append(path: Path, content: bytes) -> None:
    """Append to a regular file. Raises UserError as `writing` does."""
    with writing(path.parent) as parent, _open_to_append(path.name, parent) as file:
        file.write(content)


def open_to_append(path: Path) -> BinaryIO:
    """A regular file, made if it is missing, to append to. Raises UserError as `writing` does."""
    with writing(path.parent) as parent:
        return _open_to_append(path.name, parent)


def _open_to_append(name: str, parent: int) -> BinaryIO:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        handle = os.open(name, flags, 0o666, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise Damaged(f"{name} is not a file") from error
        raise
    return os.fdopen(handle, "ab")


def remove(path: Path) -> None:
    """Delete a file or a link; it may be missing. Raises UserError as `writing` does."""
    with writing(path.parent, create=False) as parent:
        try:
            os.unlink(path.name, dir_fd=parent)
        except FileNotFoundError:
            return


def remove_folder(path: Path) -> None:
    """Delete a folder with its content; links in it are deleted, never followed. It may be missing."""
    if kind_of(path) == "folder":
        with writing(path.parent, create=False) as parent:
            shutil.rmtree(path.name, ignore_errors=True, dir_fd=parent)


def not_plain(path: Path) -> list[Path]:
    """Links and special files in a folder and below it, none of them followed or opened."""
    strange: list[Path] = []
    for inner in (path / name for name in names(path)):
        mode = inner.lstat().st_mode
        if stat.S_ISDIR(mode):
            strange += not_plain(inner)
        elif not stat.S_ISREG(mode):
            strange.append(inner)
    return strange


def storage_error(error: OSError, path: Path | None = None) -> UserError | None:
    """UserError E518 (exit code 3) for a full, read-only or forbidden storage; None for any other error."""
    if error.errno not in _STORAGE_ERRNOS:
        return None
    where = str(path or error.filename or "")
    fix = "free some space and run the same command again"
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        fix = "check the permissions and the state of the disk, or choose another folder with --runs-dir"
    what = f"cannot write: {error.strerror}; what was written before is complete"
    return user_error("E518", what, where, fix, Exit.INTEGRITY)


_ARTICLES = {"folder": "a folder", "link": "a link", "other": "a special file", "file": "a file", "missing": "missing"}


def _kind(mode: int) -> Kind:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "folder"
    return "link" if stat.S_ISLNK(mode) else "other"
