"""Storage of a score stage: one JSON line per row, in a file that is written atomically."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from p2p_dist.errors import Exit, user_error
from p2p_dist.results import atomic
from p2p_dist.results.rundir import StageDir


def write(folder: StageDir, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write the scores; each line has `set` (train, reserve or a suite), `id` and named numbers."""
    atomic.write_bytes(
        folder.scores, "".join(json.dumps(line, sort_keys=True, allow_nan=False) + "\n" for line in lines).encode()
    )


def read(folder: StageDir) -> dict[str, dict[str, dict[str, Any]]]:
    """Read the scores by set and row id. Raises UserError E261 for an invalid line."""
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    for number, content in enumerate(folder.scores.read_bytes().splitlines(), 1):
        try:
            line = json.loads(content)
            scores.setdefault(line.pop("set"), {})[line.pop("id")] = line
        except (json.JSONDecodeError, KeyError, AttributeError) as error:
            where = f"{folder.scores}:{number}"
            raise user_error(
                "E261",
                f"not a line of scores: {error}",
                where,
                "delete the stage's folder and run again",
                Exit.INTEGRITY,
            ) from error
    return scores
