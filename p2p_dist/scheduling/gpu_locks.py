"""Advisory locks of this machine's GPUs: controllers side by side never give one GPU to two jobs.

A GPU's lock is a file named by its UUID in a folder that all users share. The kernel takes a lock back when its holder
ends, so that none outlives a controller that was killed.
"""

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from p2p_dist.errors import Exit, user_error

FOLDER = Path("/tmp/p2p-dist-gpus")
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class GpuLocks:
    """Locks that one controller holds, by the names of its GPUs."""

    def __init__(self, uuids: Mapping[str, str]):
        """`uuids` are those of GPUs by name; a GPU without one is locked by its name."""
        self._uuids = uuids
        self._held: dict[str, int] = {}

    def take(self, free: Sequence[str], count: int) -> list[str] | None:
        """Lock the first `count` GPUs of `free` that no other controller holds. None, and no lock, where there are
        fewer. Raises UserError E420 for a folder of locks that cannot be used."""
        taken: list[str] = []
        if count:
            with _shared_folder() as folder:
                for name in free:
                    if len(taken) < count and self._lock(folder, name):
                        taken.append(name)
        if len(taken) == count:
            return taken
        self.release(taken)
        return None

    def release(self, names: Collection[str]) -> None:
        """Give the GPUs back to all controllers; those that are not held stay as they are."""
        for name in names:
            if name in self._held:
                os.close(self._held.pop(name))

    def close(self) -> None:
        """Give all GPUs back."""
        self.release(list(self._held))

    def _lock(self, folder: int, name: str) -> bool:
        """True for a GPU that is held from now on; False where another controller holds it."""
        handle = _opened(folder, re.sub(r"[^\w.-]", "_", self._uuids.get(name) or name))
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        with contextlib.suppress(PermissionError):  # another user's file
            os.utime(handle)  # a folder of temporary files is cleaned of old ones
        self._held[name] = handle
        return True


def all_locked(uuids: Mapping[str, str]) -> GpuLocks:
    """Locks of all these GPUs. Raises UserError E421 where another controller holds one, and E420."""
    locks = GpuLocks(uuids)
    if locks.take(list(uuids), len(uuids)) is None:
        held = [name for name in uuids if locks.take([name], 1) is None]
        locks.close()
        what = f"another controller on this machine uses GPU {', '.join(held) or 'of this study'}"
        fix = "add --backend local, which waits for them, or set CUDA_VISIBLE_DEVICES to other ones"
        raise user_error("E421", what, "Ray on this machine", fix, Exit.OWNED)
    return locks


@contextlib.contextmanager
def _shared_folder() -> Iterator[int]:
    """Handle of the folder of locks, made where it is missing; everybody may add files to it and remove their own.
    Raises UserError E420."""
    try:
        with contextlib.suppress(FileExistsError):
            FOLDER.mkdir()
            FOLDER.chmod(0o1777)  # a mode that is given to mkdir is cut by the umask
        handle = os.open(FOLDER, _FLAGS | os.O_DIRECTORY)
        try:
            yield handle
        finally:
            os.close(handle)
    except OSError as error:
        where = FOLDER if isinstance(error.filename, int | None) else FOLDER / error.filename
        what = f"the locks of this machine's GPUs cannot be used: {os.strerror(error.errno or errno.EIO)}"
        fix = "have its owner remove it: it is made again, open to all users"
        raise user_error("E420", what, str(where), fix) from error


def _opened(folder: int, name: str) -> int:
    """Handle of a lock's file. No link is followed, and the file is made where it is missing: other users need to read
    it, and nobody to write. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        return os.open(name, _FLAGS, dir_fd=folder)
    try:
        # Not without O_EXCL: kernels refuse to create what another user has in a sticky folder.
        handle = os.open(name, _FLAGS | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=folder)
    except FileExistsError:
        return os.open(name, _FLAGS, dir_fd=folder)
    os.fchmod(handle, 0o644)
    return handle
