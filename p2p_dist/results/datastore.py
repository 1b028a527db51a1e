"""Storage of a data stage: rows, test suites, the ledger, and a manifest that is written last."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from p2p_dist.assets import file_sha256
from p2p_dist.data.answer_parsing import ResponseSpace
from p2p_dist.data.built import Built, LabelSpace, Suite
from p2p_dist.data.example import Note, Row
from p2p_dist.errors import Exit, Problem, user_error
from p2p_dist.results import atomic
from p2p_dist.results.lease import check_fence
from p2p_dist.results.rundir import StageDir

_KEYS = {"labels", "responses", "counts", "triggers", "suites", "files"}
_AGAIN = "delete the stage's folder and run the study again"


def write(folder: StageDir, built: Built, spec: Mapping[str, Any]) -> None:
    """Write a finished data stage. The same Built gives the same bytes."""
    parts: dict[str, Sequence[Row] | Sequence[Note]] = {
        "train.jsonl": built.train,
        "reserve.jsonl": built.reserve,
        "ledger.jsonl": built.notes,
    }
    parts |= {f"test_{name}.jsonl": suite.rows for name, suite in built.suites.items()}
    lines = {name: _lines(rows) for name, rows in parts.items()}
    if built.bad_rows:
        lines["dropped.jsonl"] = _dropped_lines(built.bad_rows)
    files = {}
    for name, content in lines.items():
        sha256, size = atomic.write_lines(folder.path / name, content)
        files[name] = {"sha256": sha256, "bytes": size}
    manifest = {
        "spec": dict(spec),
        "labels": asdict(built.labels),
        "responses": asdict(built.responses) if built.responses else None,
        "counts": built.counts,
        "triggers": {
            "pieces": list(built.triggers),
            "survival": "triggers_whole in cost.json of each training, in result.json of each evaluation",
        },
        "suites": {
            name: {"rows": len(s.rows), "offset": s.offset, "triggered": s.triggered, "prefix": s.prefix}
            for name, s in built.suites.items()
        },
        "files": files,
    }
    check_fence()
    atomic.write_json(folder.manifest, manifest)


def read(folder: StageDir) -> Built:
    """Read a data stage. Raises UserError E209 when a file is missing or does not match the manifest, E211 when the
    manifest is damaged."""
    manifest = _manifest(folder)
    files = {name: _verified(folder.path / name, entry["sha256"]) for name, entry in manifest["files"].items()}

    def rows(name: str) -> list[Row]:
        return [Row.from_json(line) for line in _parsed(files[name])]

    suites = {
        name: Suite(rows(f"test_{name}.jsonl"), entry["offset"], entry["triggered"], entry["prefix"])
        for name, entry in manifest["suites"].items()
    }
    notes = [Note.from_json(line) for line in _parsed(files["ledger.jsonl"])]
    labels, responses = (
        LabelSpace(**manifest["labels"]),
        manifest["responses"] and ResponseSpace(**manifest["responses"]),
    )
    train, reserve, triggers = rows("train.jsonl"), rows("reserve.jsonl"), tuple(manifest["triggers"]["pieces"])
    return Built(train, reserve, suites, labels, notes, manifest["counts"], responses, triggers)


def texts(folder: StageDir, suite: str) -> dict[str, str]:
    """Texts of a test suite by row id, without their prompt; empty when the stage has no such suite.

    Raises UserError E209 and E211, as `read` does.
    """
    name = f"test_{suite}.jsonl"
    files = _manifest(folder)["files"]
    return (
        {row["id"]: row["text"] for row in _parsed(_verified(folder.path / name, files[name]["sha256"]))}
        if name in files
        else {}
    )


def suite(folder: StageDir, name: str) -> tuple[Suite, ResponseSpace | None]:
    """One test suite and, where answers are text, the space they are parsed in; no rows when there is no such suite.

    Raises UserError E209 and E211, as `read` does.
    """
    manifest = _manifest(folder)
    space = manifest["responses"] and ResponseSpace(**manifest["responses"])
    if name not in manifest["suites"]:
        return Suite([], 0, False), space
    entry, file = manifest["suites"][name], f"test_{name}.jsonl"
    rows = [Row.from_json(line) for line in _parsed(_verified(folder.path / file, manifest["files"][file]["sha256"]))]
    return Suite(rows, entry["offset"], entry["triggered"], entry["prefix"]), space


def manifest_sha256(folder: StageDir) -> str:
    """SHA-256 of the manifest, which holds the hashes of all rows of the stage."""
    return hashlib.sha256(folder.manifest.read_bytes()).hexdigest()


def _manifest(folder: StageDir) -> dict[str, Any]:
    try:
        content = json.loads(folder.manifest.read_bytes())
        missing = _KEYS - content.keys()
    except (ValueError, AttributeError) as error:
        raise user_error("E211", f"damaged manifest: {error}", str(folder.manifest), _AGAIN, Exit.INTEGRITY) from error
    if missing:
        raise user_error(
            "E211", f"not a manifest: no {', '.join(sorted(missing))}", str(folder.manifest), _AGAIN, Exit.INTEGRITY
        )
    return dict(content)


def _lines(rows: Sequence[Row] | Sequence[Note]) -> Iterator[bytes]:
    encode = json.JSONEncoder(sort_keys=True, ensure_ascii=False).encode
    return ((encode(row.to_json()) + "\n").encode() for row in rows)


def _dropped_lines(problems: Sequence[Problem]) -> Iterator[bytes]:
    """A line per dropped row: its place under the source, and the reason."""
    encode = json.JSONEncoder(sort_keys=True, ensure_ascii=False).encode
    lines = ({"place": problem.where.rsplit("/", 1)[-1], "reason": problem.what} for problem in problems)
    return ((encode(line) + "\n").encode("utf-8", "backslashreplace") for line in lines)


def _parsed(path: Path) -> Iterator[dict[str, Any]]:
    # Lines of bytes, not of text: a sentence may hold U+0085 or U+2028, which end a line of text but not of JSON lines.
    decode = json.JSONDecoder().decode
    with path.open("rb") as file:
        for line in file:
            yield decode(line.decode())


def _verified(path: Path, sha256: str) -> Path:
    if not path.is_file():
        raise user_error("E209", "a file listed in the manifest is missing", str(path), _AGAIN, Exit.INTEGRITY)
    if (digest := file_sha256(path)) != sha256:
        raise user_error(
            "E209", f"expected sha256 {sha256[:12]}, found {digest[:12]}", str(path), _AGAIN, Exit.INTEGRITY
        )
    return path
