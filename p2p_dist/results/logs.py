"""Readable excerpts of attempt logs."""

import os
from pathlib import Path


def tail(log: Path, lines: int = 15) -> list[str]:
    """The last lines of a log, control characters removed."""
    if not log.is_file():
        return []
    with log.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - max(8192, 200 * lines)))
        text = file.read().decode("utf-8", "replace")
    return ["".join(char for char in line if char.isprintable() or char == "\t") for line in text.splitlines()[-lines:]]
