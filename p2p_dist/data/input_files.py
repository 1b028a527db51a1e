"""Files that options of plug-ins name: a file, or a folder of JSON-lines files, by path or below `$P2P_DIST_DATA`.

What is below `$P2P_DIST_DATA` may be missing on a machine: the runs that read it are then left out, and said. Any other
missing file is an error.
"""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from p2p_dist import assets
from p2p_dist.errors import user_error

ROOT = "$P2P_DIST_DATA"
"""Beginning of a path below the folder of the tasks' rows."""


@dataclass(frozen=True)
class InputFile:
    """A located file or folder: `digest` is identity, `place` its path on this machine."""

    place: str
    digest: str


@dataclass(frozen=True)
class InputFiles:
    """Located files by the path that an option names, and the reason for each that this machine lacks."""

    located: dict[str, InputFile] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def locate(paths: Iterable[str]) -> InputFiles:
    """Find the files of a study. Raises UserError E201 for missing ones that are not below `$P2P_DIST_DATA`."""
    files, unknown = InputFiles(), list[str]()
    for path in sorted(set(paths)):
        place = expanded(path)
        if place is not None and files_of(place):
            files.located[path] = InputFile(str(place) if _is_below_root(path) else path, digest_of(place))
        elif _is_below_root(path):
            files.missing[path] = _reason(place)
        else:
            unknown.append(path)
    if unknown:
        raise user_error(
            "E201",
            f"no such file: {', '.join(unknown)}",
            "attack or defense",
            f"give a path relative to this folder or below {ROOT}, or make the table with `p2p-dist paraphrases`",
        )
    return files


def expanded(path: str) -> Path | None:
    """The path on this machine; None for one below `$P2P_DIST_DATA` where that is not set."""
    if not _is_below_root(path):
        return Path(path).expanduser()
    root = os.environ.get(ROOT[1:])
    return Path(root, path.removeprefix(ROOT).lstrip("/")).resolve() if root else None


def files_of(place: Path) -> list[Path]:
    """The file itself, or the JSON-lines files of a folder by name; none for anything else."""
    if place.is_dir():
        return sorted(path for path in place.glob("*.jsonl") if path.is_file())
    return [place] if place.is_file() else []


def digest_of(place: Path) -> str:
    """Hex SHA-256 of a file, or of the names and digests of a folder's files. Raises UserError E201 for a missing
    one."""
    if not files_of(place):
        raise user_error("E201", "no such file", str(place), "put it back, or plan the study again")
    if not place.is_dir():
        return assets.file_sha256(place)
    lines = [f"{path.name} {assets.file_sha256(path)}\n" for path in files_of(place)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _reason(place: Path | None) -> str:
    """Reason why there is no file at a place below the root."""
    if place is None:
        return "P2P_DIST_DATA is not set"
    return f"{place} has no .jsonl file" if place.is_dir() else f"{place} does not exist"


def _is_below_root(path: str) -> bool:
    return path == ROOT or path.startswith(f"{ROOT}/")
