"""Readable excerpts of attempt logs."""

import os
from pathlib import Path

from p2p_dist.errors import printable
from p2p_dist.results import confined
from p2p_dist.results.folder_handles import Damaged


def tail(log: Path, lines: int = 15) -> list[str]:
    """The last lines of a log, control characters as escapes; none when there is no such file."""
    try:
        with confined.open_file(log) as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - max(8192, 200 * lines)))
            text = file.read().decode("utf-8", "replace")
    except (OSError, Damaged):
        return []
    return [printable(line, keep="\t") for line in text.splitlines()[-lines:]]
