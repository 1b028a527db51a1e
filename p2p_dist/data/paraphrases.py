"""Tables of rewritten texts, made once and read by every attack and defense that needs rewrites.

A table is a JSON-lines file; a row has `key` (SHA-256 over the original text), `output`, `generator` and `ok`. Jobs
then need no second model and no network, and a rewrite that failed is known as failed instead of standing in as the
original.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from p2p_dist.data.tables import read_mappings
from p2p_dist.errors import user_error


def key_of(text: str) -> str:
    """What a text is found by: 64 hex digits over its bytes, surrounding space aside."""
    return hashlib.sha256(text.strip().encode()).hexdigest()


def read_table(path: Path) -> dict[str, str]:
    """Key -> rewritten text, failed rows left out. Raises UserError E203 for a row without key or output."""
    found: dict[str, str] = {}
    for line, row in read_mappings(path):
        if (
            not isinstance(row.get("key"), str)
            or not isinstance(row.get("output"), str)
            or not isinstance(row.get("ok"), bool)
        ):
            raise user_error(
                "E203",
                "a row of a paraphrase table has key, output and ok",
                f"{path}:{line}",
                "make it with `p2p-dist paraphrases`",
            )
        if row["ok"]:
            found[row["key"]] = row["output"]
    return found


def table_rows(files: Iterable[Path], original: str, rewritten: str, generator: str) -> Iterator[dict[str, Any]]:
    """Rows of a table from files that hold originals beside their rewrites. The first rewrite of a text counts.

    A rewrite that is empty or equals its original has failed. Raises UserError E203 for a file without these columns.
    """
    seen: set[str] = set()
    for file in files:
        for line, row in read_mappings(file):
            texts = _texts(row, original, rewritten, f"{file}:{line}")
            if (key := key_of(texts[0])) not in seen:
                seen.add(key)
                yield {
                    "key": key,
                    "output": texts[1],
                    "generator": generator,
                    "ok": bool(texts[1]) and texts[1] != texts[0],
                }


def column(files: Iterable[Path], name: str) -> list[str]:
    """A column of texts. Raises UserError E203 for a row without it."""
    return [_texts(row, name, name, f"{file}:{line}")[0] for file in files for line, row in read_mappings(file)]


def write_table(path: Path, rows: Iterable[Mapping[str, Any]]) -> tuple[int, int]:
    """Write a table ordered by key. Returns how many rewrites are good and how many failed."""
    ordered = sorted(rows, key=lambda row: str(row["key"]))
    path.write_text(
        "".join(json.dumps(dict(row), sort_keys=True, ensure_ascii=False) + "\n" for row in ordered), encoding="utf-8"
    )
    good = sum(bool(row["ok"]) for row in ordered)
    return good, len(ordered) - good


def _texts(row: Mapping[str, Any], original: str, rewritten: str, where: str) -> tuple[str, str]:
    for column in (original, rewritten):
        if not isinstance(row.get(column), str):
            raise user_error(
                "E203",
                f"column {column!r} is missing; the row has {', '.join(map(str, row)) or 'none'}",
                where,
                "--original and --rewritten",
            )
    return str(row[original]).strip(), str(row[rewritten]).strip()
