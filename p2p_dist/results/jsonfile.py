"""The one reader of the small JSON files of a run folder: bounded size and depth, UTF-8, finite numbers.

Any damage is a `Damaged` with its reason, so that a caller names the file and counts it as absent; no content of a file
ends in a traceback.
"""

import json
from pathlib import Path
from typing import Any, NoReturn

from p2p_dist.results.confined import LARGEST_JSON, read_bytes
from p2p_dist.results.folder_handles import Damaged

DEEPEST = 64
"""Levels of brackets of the deepest file that is read."""


def read(path: Path, most: int = LARGEST_JSON) -> Any:
    """Content of a JSON file of at most `most` bytes. Raises FileNotFoundError, and Damaged for anything else."""
    return parse(read_bytes(path, most))


def read_object(path: Path, most: int = LARGEST_JSON) -> dict[str, Any]:
    """Content of a JSON file that holds an object. Raises as `read` does."""
    content = read(path, most)
    if not isinstance(content, dict):
        raise Damaged("not a JSON object")
    return content


def parse(content: bytes) -> Any:
    """Value of one JSON text. Raises Damaged."""
    try:
        value = _DECODER.decode(content.decode())
    except UnicodeDecodeError as error:
        raise Damaged(f"not UTF-8 text: byte {error.start}") from error
    except RecursionError as error:
        raise Damaged(f"nested deeper than {DEEPEST} levels") from error
    except ValueError as error:  # of JSON, and of numbers with thousands of digits
        raise Damaged(f"not JSON: {error}") from error
    if content.count(b"{") + content.count(b"[") > DEEPEST:  # fewer brackets are no deeper
        _check_depth(value)
    return value


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
"""One for all files: `json.loads` makes a new one for each."""


def _check_depth(value: object) -> None:
    level = [value]
    for _ in range(DEEPEST):
        level = [item for container in level if isinstance(container, dict | list) for item in _items(container)]
        if not level:
            return
    raise Damaged(f"nested deeper than {DEEPEST} levels")


def _items(container: object) -> list[object]:
    values = container.values() if isinstance(container, dict) else container
    return [item for item in values if isinstance(item, dict | list)]  # type: ignore[attr-defined]
