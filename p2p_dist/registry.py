"""Plug-ins: a plug-in's name is its file's name, and names are listed without importing anything.

`p2p_dist/data/attacks/badnets.py` is the attack `badnets`. The file defines one class, a subclass of the kind's base;
that class is at once the plug-in and its options (a strict pydantic model).

Attacks, defenses and tasks may also lie outside the package (`p2p_dist.external_plugins`): in `DIR/attacks/NAME.py`,
where the environment variable P2P_DIST_PLUGINS names DIR, or in an installed package that declares the entry point
NAME.
"""

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from p2p_dist import external_plugins
from p2p_dist.errors import UserError, user_error

PACKAGES = {
    "tasks": "p2p_dist.data.tasks",
    "attacks": "p2p_dist.data.attacks",
    "defenses": "p2p_dist.data.defenses",
    "backends": "p2p_dist.scheduling.backends",
    "mirrors": "p2p_dist.results.mirrors",
}
CODE = "plugin_sha256"
"""Key of a stage's spec that holds the digest of a plug-in's code, if it lies outside the package."""
_BASES = {
    "tasks": ("p2p_dist.data.task", "Task"),
    "attacks": ("p2p_dist.data.attack", "Attack"),
    "defenses": ("p2p_dist.data.defense", "Defense"),
}
_REQUIRED = {"tasks": ("licence", "metrics")}
"""Class attributes without a default that a plug-in must set."""


def names(kind: str) -> list[str]:
    """All plug-ins of a kind, sorted, from file names and entry points alone.

    Raises UserError E122 for an external plug-in with the name of another one.
    """
    return sorted({*_shipped(kind), *_external(kind)})


def load(kind: str, name: str, code: str | None = None) -> Any:
    """The class of a plug-in; `code` is the digest that an external plug-in must have.

    Raises UserError E117 for an unknown name, with the nearest known ones; E122 for a name that two plug-ins have; E123
    for a file that cannot be imported or is no plug-in; E208 for code that has changed.
    """
    external = _external(kind)
    if name in external:
        place = external[name]
        module = place.load()
        if code is not None and place.digest() != code:
            what = f"the code of {kind[:-1]} {name!r} changed: expected {code}, found {place.digest()}"
            raise user_error("E208", what, place.where, "run the study again, which makes new results")
        return _checked(kind, name, module, place.where)
    if name not in _shipped(kind):
        if code is not None:  # planned with an external plug-in that this process does not see
            fix = f"set {external_plugins.VARIABLE} to its folder, or install its package"
            raise user_error("E117", f"the external {kind[:-1]} {name!r} is missing here", fix=fix)
        raise unknown(kind, name, names(kind))
    module = importlib.import_module(f"{PACKAGES[kind]}.{name}")
    if kind in _BASES:
        return _checked(kind, name, module, str(module.__file__))
    classes = _classes(kind, module)
    if len(classes) != 1:
        raise TypeError(f"{module.__file__} must define exactly one class of kind {kind!r}, found {len(classes)}")
    return classes[0]


def name_of(plugin: Any) -> str:
    """The name of a loaded plug-in: its module's."""
    return str(type(plugin).__module__).rpartition(".")[2]


def code_of(plugin: Any) -> dict[str, str]:
    """The identity of a plug-in's code, as a part of a stage's spec: its digest if it lies outside the package, and
    nothing otherwise."""
    place = _external(plugin.plugin_kind).get(name_of(plugin))
    return {CODE: place.digest()} if place else {}


def unknown(kind: str, name: str, known: Sequence[str]) -> UserError:
    """The error for a name that is not among the known ones of its kind."""
    singular = {"studies": "study"}.get(kind, kind[:-1])
    return user_error(
        "E117", f"unknown {singular} {name!r}{suggest(name, known)}", fix=f"name one of {', '.join(known)}"
    )


def suggest(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` to follow an unknown word in a message, or nothing."""
    close = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _shipped(kind: str) -> list[str]:
    folder = Path(__file__).parent.joinpath(*PACKAGES[kind].split(".")[1:])
    return [module.name for module in pkgutil.iter_modules([str(folder)]) if not module.name.startswith("_")]


def _external(kind: str) -> dict[str, external_plugins.Place]:
    if kind not in _BASES:
        return {}
    places = external_plugins.find(kind)
    for name in _shipped(kind) if places else ():
        if name in places:
            what = f"{kind[:-1]} {name!r} is shipped with p2p-dist; an external plug-in cannot have its name"
            raise user_error("E122", what, places[name].where, "rename the file or the entry point")
    return places


def _checked(kind: str, name: str, module: ModuleType, where: str) -> Any:
    """The one plug-in class of an external module. Raises UserError E123 for anything else."""
    package, base = _BASES[kind]
    classes = _classes(kind, module)
    wrong = (
        f"no plug-in: {kind[:-1]} {name!r} defines {len(classes) or 'no'} subclass{'es' * (len(classes) > 1)} of {base}"
    )
    if len(classes) != 1:
        raise user_error("E123", wrong, where, f"define one class that derives from {package}.{base}")
    plugin = classes[0]
    if missing := sorted(getattr(plugin, "__abstractmethods__", ())):
        what = f"{kind[:-1]} {name!r} lacks {_listed(missing, 'method')}"
        raise user_error("E123", what, where, f"define {missing[0]} in class {plugin.__name__}")
    if absent := [attribute for attribute in _REQUIRED.get(kind, ()) if not hasattr(plugin, attribute)]:
        what = f"{kind[:-1]} {name!r} lacks {_listed(absent, 'class attribute')}"
        raise user_error("E123", what, where, f"set {absent[0]} in class {plugin.__name__}")
    return plugin


def _classes(kind: str, module: ModuleType) -> list[type]:
    """The classes of a kind that a module itself defines."""
    defined = [
        value for value in vars(module).values() if inspect.isclass(value) and value.__module__ == module.__name__
    ]
    if kind not in _BASES:
        return [value for value in defined if getattr(value, "plugin_kind", "") == kind]
    package, name = _BASES[kind]
    base = getattr(importlib.import_module(package), name)
    return [value for value in defined if issubclass(value, base)]


def _listed(words: list[str], noun: str) -> str:
    return f"the {noun}{'s' * (len(words) > 1)} {', '.join(words)}"
