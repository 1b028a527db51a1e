"""External plug-ins: files of a folder, and entry points of installed packages.

The folder `DIR` has `DIR/attacks/NAME.py`, `DIR/defenses/NAME.py` and `DIR/tasks/NAME.py`; P2P_DIST_PLUGINS names one
such folder or several (`DIR:DIR`), and every process of a study gets that variable. An installed package declares
`NAME = "package.NAME"` in the entry-point group `p2p_dist.attacks`, `p2p_dist.defenses` or `p2p_dist.tasks`.

The code of an external plug-in decides what a study computes, so its digest is part of the ids of the stages that
run it.
"""

import functools
import hashlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from p2p_dist.errors import user_error

VARIABLE = "P2P_DIST_PLUGINS"
KINDS = ("attacks", "defenses", "tasks")
_PACKAGE = "p2p_dist_plugins"
"""First part of the names that modules of folders get in this process."""


@dataclass(frozen=True)
class Place:
    """The place of one external plug-in: a file of a folder, or a module of an installed package."""

    kind: str
    name: str
    file: Path | None = None
    module: str = ""

    @property
    def where(self) -> str:
        """The place as error messages have it."""
        return str(self.file) if self.file else f"entry point {self.name} = {self.module!r} (p2p_dist.{self.kind})"

    def load(self) -> ModuleType:
        """Import the module. Raises UserError E123, in one line, for whatever the import raises."""
        try:
            if self.file is None:
                return importlib.import_module(self.module)
            return _import_file(f"{_PACKAGE}.{self.kind}.{self.name}", self.file, self.digest())
        except Exception as error:  # code from elsewhere may raise anything
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            what = f"{self.kind[:-1]} {self.name!r} cannot be imported: {reason}"
            raise user_error("E123", what, self.where, "correct the file") from error

    def digest(self) -> str:
        """Twelve hex digits of SHA-256 over the code: the file of a folder's plug-in; for an entry point, the module's
        file, or every Python file of its package where it is part of one."""
        if self.file is not None:
            return _digest([self.file], self.file.parent)
        path = Path(str(self.load().__file__))
        if "." not in self.module:
            return _digest([path], path.parent)
        return _digest(sorted(path.parent.rglob("*.py")), path.parent)


def find(kind: str) -> dict[str, Place]:
    """The external plug-ins of a kind by name. Raises UserError E122 for a name that two of them have, E124 for a
    folder without plug-ins or an entry point that is not named as its module."""
    places = [
        Place(kind, file.stem, file)
        for folder in folders()
        for file in sorted((folder / kind).glob("*.py"))
        if not file.name.startswith("_")
    ]
    places += [_of_entry_point(kind, point) for point in _entry_points(kind)]
    by_name: dict[str, Place] = {}
    for place in places:
        if (other := by_name.setdefault(place.name, place)) != place:
            what = f"two external plug-ins are called {place.name!r} ({kind}): {other.where} and {place.where}"
            raise user_error("E122", what, f"${VARIABLE} or entry points", "rename one of them")
    return by_name


def folders() -> list[Path]:
    """The folders that P2P_DIST_PLUGINS names. Raises UserError E124 for one without plug-ins."""
    paths = [Path(part).expanduser() for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]
    for path in paths:
        if not any((path / kind).is_dir() for kind in KINDS):
            what = "no folder of plug-ins" if path.is_dir() else "no such folder"
            fix = f"name a folder that has {', '.join(f'{kind}/' for kind in KINDS[:-1])} or {KINDS[-1]}/"
            raise user_error("E124", what, f"{path} (--plugins or ${VARIABLE})", fix)
    return paths


def _of_entry_point(kind: str, point: EntryPoint) -> Place:
    module = point.value.partition(":")[0].strip()
    place = Place(kind, point.name, module=module)
    if module.rpartition(".")[2] != point.name:
        what = "an entry point is named as its module, because a plug-in's name is its file's name"
        raise user_error("E124", what, place.where, f"name it {module.rpartition('.')[2]}")
    return place


@functools.cache
def _entry_points(kind: str) -> tuple[EntryPoint, ...]:
    return tuple(sorted(entry_points(group=f"p2p_dist.{kind}")))


class _Loader(SourceFileLoader):
    """A loader that ignores compiled files: these are told apart by time and size, so one may belong to older code."""

    def path_stats(self, path: str) -> Mapping[str, object]:
        raise OSError("no compiled file")


@functools.cache
def _import_file(name: str, file: Path, digest: str) -> ModuleType:
    """A file as a module, once per content: a file that changed is imported again."""
    spec = importlib.util.spec_from_file_location(name, file, loader=_Loader(name, str(file)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # pydantic looks names of annotations up here
    try:
        spec.loader.exec_module(module)
    except BaseException:  # an interrupt too must leave no half-imported module
        del sys.modules[name]
        raise
    return module


def _digest(files: list[Path], root: Path) -> str:
    hashed = hashlib.sha256()
    for file in files:
        content = file.read_bytes()
        hashed.update(f"{file.relative_to(root)}:{len(content)}:".encode() + content)
    return hashed.hexdigest()[:12]
