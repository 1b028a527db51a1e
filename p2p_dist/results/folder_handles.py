"""Folders of run folders, opened component by component: openat(2) with O_NOFOLLOW from the run folder on.

A run folder may come from elsewhere. Its own path is the user's and may lead through links; below it, every component
is opened relative to the one before it and refused if it is a link.
"""

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
"""Flags that open a folder."""
_run_folders: set[str] = set()
_held = threading.local()


class Damaged(ValueError):
    """Reason why a file of a run folder cannot be used."""


def add_run_folder(path: Path) -> None:
    """Confine all paths below this folder: from now on none of their components may be a link."""
    absolute = os.path.abspath(path)
    if absolute not in _run_folders:
        _run_folders.update((absolute, os.path.realpath(absolute)))


@contextmanager
def opened_folder(path: Path, create: bool = False) -> Iterator[int]:
    """Handle of a folder. Raises FileNotFoundError, and Damaged when a component below the run folder is no folder."""
    handle = _open_folder(path, create)
    try:
        yield handle
    finally:
        os.close(handle)


@contextmanager
def held_open(path: Path) -> Iterator[None]:
    """Keep a folder open while the block runs: paths to its files begin there, not at the run folder, in this thread
    and where nothing is created. A folder that is missing or none of the run folder is not held."""
    absolute = os.path.abspath(path)
    try:
        handle = _open_folder(path, create=False)
    except (OSError, Damaged):
        yield
        return
    before = _held_folder()
    _held.folder = (absolute, handle)
    try:
        yield
    finally:
        _held.folder = before
        os.close(handle)


def _held_folder() -> tuple[str, int]:
    """Path and handle of the folder that this thread holds open; an empty path for none."""
    folder: tuple[str, int] = getattr(_held, "folder", ("", -1))
    return folder


def _open_folder(path: Path, create: bool) -> int:
    held, held_handle = ("", -1) if create else _held_folder()
    root, inner = _split(os.path.abspath(path), held)
    if create:
        os.makedirs(root, exist_ok=True)
    handle = os.dup(held_handle) if root == held else os.open(root, FOLDER)
    for name in inner:
        try:
            if create:
                _make(name, handle)
            deeper = os.open(name, FOLDER | os.O_NOFOLLOW, dir_fd=handle)
        except NotADirectoryError as error:
            is_link = stat.S_ISLNK(os.stat(name, dir_fd=handle, follow_symlinks=False).st_mode)
            raise Damaged(f"{name} is {'a link' if is_link else 'a file, not a folder'}") from error
        finally:
            os.close(handle)
        handle = deeper
    return handle


def _make(name: str, parent: int) -> None:
    try:
        os.mkdir(name, dir_fd=parent)
    except FileExistsError:
        return


def _split(absolute: str, held: str) -> tuple[str, list[str]]:
    """The held folder or the innermost run folder above a path, and the names below it; the path itself where there is
    none."""
    root, inner = absolute, list[str]()
    while root != held and root not in _run_folders:
        above, name = os.path.split(root)
        if above == root:
            return absolute, []
        root, inner = above, [name, *inner]
    return root, inner
