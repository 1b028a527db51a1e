"""Progress of a stage: `metrics.jsonl`, one JSON line per step or batch, of which invalid lines are left out."""

import json
from pathlib import Path
from typing import Any

from p2p_dist.errors import Problem
from p2p_dist.results import confined, jsonfile
from p2p_dist.results.folder_handles import Damaged

_LARGEST = 1 << 30
"""Bytes of the largest file of metrics that is read."""
_TAIL = 4096
"""Bytes in which the newest line is looked for."""
_COUNTS = ("step", "steps", "rows", "of")
"""Keys whose values are whole numbers."""


def append(path: Path, line: dict[str, Any]) -> None:
    """Append one line. Raises UserError as `confined.writing` does."""
    confined.append(path, (json.dumps(line, sort_keys=True) + "\n").encode())


def last(path: Path) -> dict[str, Any] | None:
    """The newest valid line, or None."""
    try:
        with confined.open_file(path) as file:
            return _newest(confined.end_of(file.fileno(), _TAIL))
    except (OSError, Damaged):
        return None


def last_in(name: str, handle: int) -> dict[str, Any] | None:
    """As `last`, of a file in an open folder."""
    content = confined.content_of(name, handle, _LARGEST, last=_TAIL)
    return None if content is None else _newest(content)


def _newest(content: bytes) -> dict[str, Any] | None:
    lines = content.splitlines(keepends=True)
    return next((metrics for line in reversed(lines) if (metrics := _parse(line))), None)


def read(path: Path) -> list[dict[str, Any]]:
    """All valid lines."""
    return [metrics for line in _lines(path)[0] if (metrics := _parse(line))]


def problem(path: Path) -> Problem | None:
    """E516 for a damaged file or damaged lines, without a last line that is still being written."""
    lines, why = _lines(path)
    damaged = sum(_parse(line) is None for line in lines if line.endswith(b"\n"))
    if not (damaged or why):
        return None
    what = f"no metrics are read: {why}" if why else f"{damaged} lines are no metrics, and left out"
    return Problem("E516", what, str(path), "ignore them; no result depends on them")


def _lines(path: Path) -> tuple[list[bytes], str]:
    """Lines of the file, and why it cannot be read (empty when it can, or is missing)."""
    try:
        return confined.read_bytes(path, _LARGEST).splitlines(keepends=True), ""
    except FileNotFoundError:
        return [], ""
    except Damaged as error:
        return [], str(error)


def _parse(line: bytes) -> dict[str, Any] | None:
    """Content of a line: an object of finite numbers or null that counts steps or rows; None for any other line."""
    try:
        content = jsonfile.parse(line) if line.endswith(b"\n") else None
    except Damaged:
        return None
    if not isinstance(content, dict) or not ("step" in content or "rows" in content):
        return None
    return content if all(_is_metric(key, value) for key, value in content.items()) else None


def _is_metric(key: str, value: object) -> bool:
    if key in _COUNTS:
        return type(value) is int and 0 <= value < 1 << 53
    return value is None or (isinstance(value, int | float) and abs(value) < 1e300)
