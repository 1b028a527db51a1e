"""Paraphrase tables: rewritten texts, made once and read by the attacks and defenses that need rewrites.

A table is a JSON-lines file; a row has `key` (SHA-256 of the original text), `output`, `generator` and `ok`. Jobs need
no second model and no network, and a failed rewrite is known as failed instead of passing for the original.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from p2p_dist.data.tables import read_mappings
from p2p_dist.errors import user_error


def key_of(text: str) -> str:
    """Key of a text: SHA-256 (64 hex digits) of its bytes without surrounding space."""
    return hashlib.sha256(text.strip().encode()).hexdigest()


def read_table(path: Path) -> dict[str, str]:
    """Rewritten texts by key, without failed rows. Raises UserError E203 for a row without key, output or ok."""
    rewrites: dict[str, str] = {}
    for line, row in read_mappings(path):
        if (
            not isinstance(row.get("key"), str)
            or not isinstance(row.get("output"), str)
            or not isinstance(row.get("ok"), bool)
        ):
            raise user_error(
                "E203",
                "a row of a paraphrase table must have key, output and ok",
                f"{path}:{line}",
                "make the table with `p2p-dist paraphrases`",
            )
        if row["ok"]:
            rewrites[row["key"]] = row["output"]
    return rewrites


def table_rows(files: Iterable[Path], original: str, rewritten: str, generator: str) -> Iterator[dict[str, Any]]:
    """Rows of a table, from files that hold originals and their rewrites. The first rewrite of a text counts.

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
    """Write a table ordered by key. Returns the numbers of good and of failed rewrites."""
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
                "set --original and --rewritten",
            )
    return str(row[original]).strip(), str(row[rewritten]).strip()
