"""Plug-ins: a plug-in's name is its file's name, and names are found without importing anything.

`p2p_dist/data/attacks/badnets.py` is the attack `badnets`. The file defines one class whose base carries the folder's
name as `plugin_kind`; that class is at once the plug-in and its options (a strict pydantic model).
"""

import difflib
import importlib
import pkgutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from p2p_dist.errors import UserError, user_error

PACKAGES = {
    "tasks": "p2p_dist.data.tasks",
    "attacks": "p2p_dist.data.attacks",
    "defenses": "p2p_dist.data.defenses",
    "backends": "p2p_dist.scheduling.backends",
    "mirrors": "p2p_dist.results.mirrors",
}


def names(kind: str) -> list[str]:
    """All plug-ins of a kind, sorted, from the file names alone."""
    folder = Path(__file__).parent.joinpath(*PACKAGES[kind].split(".")[1:])
    return sorted(module.name for module in pkgutil.iter_modules([str(folder)]) if not module.name.startswith("_"))


def load(kind: str, name: str) -> Any:
    """The class of a plug-in. Raises UserError E117 for an unknown name, with the nearest known ones."""
    if name not in names(kind):
        raise unknown(kind, name)
    module = importlib.import_module(f"{PACKAGES[kind]}.{name}")
    own = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__ == module.__name__ and getattr(value, "plugin_kind", "") == kind
    ]
    if len(own) != 1:
        raise TypeError(f"{module.__file__} must define exactly one class of kind {kind!r}, found {len(own)}")
    return own[0]


def name_of(plugin: Any) -> str:
    """The name of a loaded plug-in: its module's."""
    return str(type(plugin).__module__).rpartition(".")[2]


def unknown(kind: str, name: str) -> UserError:
    """The error for a name that no file has."""
    known = names(kind)
    return user_error("E117", f"unknown {kind[:-1]} {name!r}", fix=f"{suggest(name, known)}one of {', '.join(known)}")


def suggest(word: str, known: Iterable[str]) -> str:
    """`did you mean 'x'? ` or nothing."""
    close = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}? " if close else ""
