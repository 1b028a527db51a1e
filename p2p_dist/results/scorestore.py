"""Storage of a score stage: one JSON line per row, in a file that is written atomically."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2p_dist.errors import Exit, UserError, user_error
from p2p_dist.results import atomic, checksums, confined, jsonfile
from p2p_dist.results.folder_handles import Damaged
from p2p_dist.results.rundir import StageDir

_LARGEST = 1 << 30
"""Bytes of the largest table of scores that is read."""


_LONGEST_STOP = 1 << 16
"""Bytes of the longest record of a stop: 200 classes have 4 kB."""


@dataclass(frozen=True)
class Unfinished:
    """Texts of an unfinished score stage by the key of their original (None: failed), in a file beside its scores."""

    path: Path

    @staticmethod
    def of(folder: StageDir) -> "Unfinished":
        """Those of a stage."""
        return Unfinished(folder.path / "unfinished.json")

    def read(self) -> dict[str, str | None]:
        """Texts of an earlier attempt; none where there is no file, or a damaged one."""
        try:
            texts = jsonfile.read_object(self.path, _LARGEST)
        except (FileNotFoundError, Damaged):
            return {}
        return {key: text for key, text in texts.items() if text is None or isinstance(text, str)}

    def write(self, texts: Mapping[str, str | None]) -> None:
        """Replace the file by these texts."""
        atomic.write_json(self.path, dict(texts))

    def remove(self) -> None:
        """Delete the file; it may be missing."""
        confined.remove(self.path)


def write(folder: StageDir, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write the scores; each line has `set` (train, reserve or a suite), `id` and named numbers."""
    content = "".join(json.dumps(line, sort_keys=True, allow_nan=False) + "\n" for line in lines).encode()
    checksums.write(folder, {folder.scores.name: content})
    atomic.write_bytes(folder.scores, content)


def stop_record(folder: StageDir) -> dict[str, Any] | None:
    """The last line of a screening's scores, which tells how it stopped; None for other scores, or none so far."""
    try:
        with confined.open_file(folder.scores) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LONGEST_STOP))
            line = jsonfile.parse(file.read().splitlines()[-1])
    except (OSError, ValueError, IndexError):
        return None
    if not isinstance(line, dict) or line.get("set") != "screening" or not isinstance(line.get("agreement"), list):
        return None
    rest = ("majority_answer", "majority_given", "prompts", "needed")
    shares = [*line["agreement"], *(line[key] for key in rest if key in line)]
    numbers = all(isinstance(share, int | float) for share in shares) and isinstance(line.get("step"), int)
    if "prompts" in line:
        numbers = numbers and "needed" in line and len(line["agreement"]) == 1 and line["prompts"] > 1
    return line if numbers and isinstance(line.get("reached"), bool) else None


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
