"""Storage of a score stage: one JSON line per row, in a file that is written atomically."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from p2p_dist.errors import Exit, UserError, user_error
from p2p_dist.results import atomic, checksums, jsonfile
from p2p_dist.results.confined import Damaged
from p2p_dist.results.rundir import StageDir

_LARGEST = 1 << 30
"""Bytes of the largest table of scores that is read."""


def write(folder: StageDir, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write the scores; each line has `set` (train, reserve or a suite), `id` and named numbers."""
    content = "".join(json.dumps(line, sort_keys=True, allow_nan=False) + "\n" for line in lines).encode()
    checksums.write(folder, {folder.scores.name: content})
    atomic.write_bytes(folder.scores, content)


def read(folder: StageDir) -> dict[str, dict[str, dict[str, Any]]]:
    """Read the scores by set and row id. Raises UserError E261 for an invalid line, and as `checksums.require` does."""
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    try:
        content = checksums.content(folder, folder.scores, _LARGEST)
    except (Damaged, FileNotFoundError) as error:
        raise _damaged(f"no scores: {error}", str(folder.scores)) from error
    for number, text in enumerate(content.splitlines(), 1):
        try:
            line = jsonfile.parse(text)
            scores.setdefault(line.pop("set"), {})[line.pop("id")] = line
        except (Damaged, KeyError, AttributeError, TypeError) as error:
            raise _damaged(f"not a line of scores: {error}", f"{folder.scores}:{number}") from error
    return scores


def _damaged(what: str, where: str) -> UserError:
    return user_error("E261", what, where, "delete the stage's folder and run again", Exit.INTEGRITY)
