"""Paraphrase tables: rewritten texts, made once and read by the attacks and defenses that need rewrites.

A table is a JSON-lines file, or a folder of such files; a row has `key` (SHA-256 of the original text), `output`,
`generator` and `ok`. Jobs need no second model and no network, and a failed rewrite is known as failed instead of
passing for the original. Published rewrites are read as they are: rows with `clean_text` and `text` (Hidden Killer), or
rows with `id` and `text` whose originals have the same `id` in another file (PSIM). A rewrite is used for the very text
that was rewritten and for no other.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from p2p_dist.data.input_files import files_of
from p2p_dist.data.tables import read_mappings
from p2p_dist.errors import user_error


def key_of(text: str) -> str:
    """Key of a text: SHA-256 (64 hex digits) of its bytes without surrounding space."""
    return hashlib.sha256(text.strip().encode()).hexdigest()


def read_table(place: Path, originals: Path | None = None) -> dict[str, str]:
    """Rewritten texts by key, without failed rows; the first of several rewrites of a text counts.

    `originals` has the texts of rows with `id` and `text`. Raises UserError E203 for a row of no known form, and for
    one whose original has another label or is missing.
    """
    texts = _originals(originals) if originals else {}
    rewrites: dict[str, str] = {}
    for file in files_of(place):
        for line, row in read_mappings(file):
            key, output, is_good = _rewrite(row, texts, f"{file}:{line}")
            if is_good:
                rewrites.setdefault(key, output)
    return rewrites


def scored_rewrites(scores: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, str]:
    """Rewritten texts by key, without failed rows, of a score stage of the method `rewrites`."""
    lines = (line for rows in scores.values() for line in rows.values())
    return {line["key"]: line["output"] for line in lines if line["ok"]}


def _rewrite(row: Mapping[str, Any], originals: Mapping[Any, Mapping[str, Any]], where: str) -> tuple[str, str, bool]:
    """Key, rewritten text, and True where the rewrite is good."""
    if isinstance(row.get("key"), str) and isinstance(row.get("output"), str) and isinstance(row.get("ok"), bool):
        return row["key"], row["output"], row["ok"]
    if isinstance(row.get("clean_text"), str) and isinstance(row.get("text"), str):
        return _pair(row["clean_text"], row["text"])
    if originals and isinstance(row.get("text"), str):
        original = originals.get(row["id"]) if isinstance(row.get("id"), int | str) else None
        if original is None or original.get("label") != row.get("label"):
            what = f"id {row.get('id')!r} has {'no original' if original is None else 'an original of another label'}"
            raise user_error("E203", what, where, "name the file of the rows that were rewritten")
        return _pair(original["text"], row["text"])
    raise user_error(
        "E203",
        "a row of a paraphrase table must have key, output and ok, or clean_text and text",
        where,
        "make the table with `p2p-dist paraphrases`, or name the file with the originals",
    )


def _pair(original: str, rewritten: str) -> tuple[str, str, bool]:
    return key_of(original), rewritten.strip(), rewritten.strip() not in ("", original.strip())


def _originals(file: Path) -> dict[Any, Mapping[str, Any]]:
    """Rows by `id`. Raises UserError E203 for a row without id and text, and for two rows of one id."""
    rows: dict[Any, Mapping[str, Any]] = {}
    for line, row in read_mappings(file):
        if not isinstance(row.get("id"), int | str) or not isinstance(row.get("text"), str) or row["id"] in rows:
            what = "a row of originals must have text and an id of its own"
            raise user_error("E203", what, f"{file}:{line}", "name the file of the rows that were rewritten")
        rows[row["id"]] = row
    return rows


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
