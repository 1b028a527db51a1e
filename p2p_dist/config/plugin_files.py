"""Files that plug-ins read: their content is a part of identity, their place is not, and a run whose file is missing on
this machine is left out."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from p2p_dist.config.builder import plugin_spec
from p2p_dist.config.study import Plugin


class FilePlace(Protocol):
    """Place and digest of a file that an option names (`p2p_dist.data.input_files.InputFile`)."""

    @property
    def place(self) -> str: ...
    @property
    def digest(self) -> str: ...


@dataclass(frozen=True)
class LeftOut:
    """A cell of the grid that is no run here, and the reason."""

    cell: Mapping[str, str]
    reason: str

    def to_json(self) -> dict[str, Any]:
        """The cell as `resolved.json` holds it."""
        return {"cell": dict(self.cell), "reason": self.reason}


def file_options(plugin: Plugin) -> dict[str, str]:
    """Paths of the files that a plug-in reads, by option."""
    return {option: path for option in plugin.file_fields if (path := getattr(plugin, option)) is not None}


def spec_of(plugin: Plugin, files: Mapping[str, FilePlace]) -> dict[str, Any]:
    """Name and options of a plug-in, with the content hash of a file in place of its path."""
    hashes = {option: files[path].digest for option, path in file_options(plugin).items()}
    return {**plugin_spec(plugin), **hashes}


def places_of(plugin: Plugin, files: Mapping[str, FilePlace]) -> dict[str, str]:
    """Places of a plug-in's files on this machine, by option."""
    return {option: files[path].place for option, path in file_options(plugin).items()}


def left_out_lines(reasons: Iterable[str]) -> list[str]:
    """A line for each reason, with the number of cells that are left out for it."""
    counts = Counter(reasons)
    return [f"left out, {count} cell{'s' if count > 1 else ''}: {reason}" for reason, count in counts.items()]


def left_out(cell: Mapping[str, str], plugins: Mapping[str, Plugin], missing: Mapping[str, str]) -> LeftOut | None:
    """The cell with its reason where one of its plug-ins, by axis, reads a missing file; else None."""
    reasons = [
        f"{axis} {cell[axis]} reads {path}: {missing[path]}"
        for axis, plugin in plugins.items()
        for path in file_options(plugin).values()
        if path in missing
    ]
    return LeftOut(cell, "; ".join(reasons)) if reasons else None
