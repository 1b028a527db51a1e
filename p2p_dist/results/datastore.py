"""A data stage on disk: rows, suites, the ledger, and a manifest that is written last."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from p2p_dist.data.answers import ResponseSpace
from p2p_dist.data.build import Built, LabelSpace, Suite
from p2p_dist.data.example import Note, Row
from p2p_dist.errors import Exit, user_error
from p2p_dist.results import atomic
from p2p_dist.results.rundir import StageDir


def write(folder: StageDir, built: Built, spec: Mapping[str, Any]) -> None:
    """Write a finished data stage. The same Built gives the same bytes."""
    files = {
        "train.jsonl": _lines([row.to_json() for row in built.train]),
        "reserve.jsonl": _lines([row.to_json() for row in built.reserve]),
        "ledger.jsonl": _lines([note.to_json() for note in built.notes]),
        **{f"test_{name}.jsonl": _lines([row.to_json() for row in suite.rows]) for name, suite in built.suites.items()},
    }
    for name, content in files.items():
        atomic.write_bytes(folder.path / name, content)
    manifest = {
        "spec": dict(spec),
        "labels": asdict(built.labels),
        "responses": asdict(built.responses) if built.responses else None,
        "counts": built.counts,
        "triggers": {"pieces": list(built.triggers), "survival": "triggers_whole in cost.json of each training, in result.json of each evaluation"},
        "suites": {name: {"rows": len(s.rows), "offset": s.offset, "triggered": s.triggered, "prefix": s.prefix} for name, s in built.suites.items()},
        "files": {name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)} for name, content in files.items()},
    }
    atomic.write_json(folder.manifest, manifest)


def read(folder: StageDir) -> Built:
    """Read a data stage back. Raises UserError E209 when a file is not the one in the manifest."""
    manifest = json.loads(folder.manifest.read_text())
    files = {name: _verified(folder.path / name, facts["sha256"]) for name, facts in manifest["files"].items()}
    suites = {
        name: Suite(_rows(files[f"test_{name}.jsonl"]), facts["offset"], facts["triggered"], facts["prefix"]) for name, facts in manifest["suites"].items()
    }
    notes = [Note(**line) for line in files["ledger.jsonl"]]
    labels, responses = LabelSpace(**manifest["labels"]), manifest["responses"] and ResponseSpace(**manifest["responses"])
    train, reserve = _rows(files["train.jsonl"]), _rows(files["reserve.jsonl"])
    return Built(train, reserve, suites, labels, notes, manifest["counts"], responses, tuple(manifest["triggers"]["pieces"]))


def texts(folder: StageDir, suite: str) -> dict[str, str]:
    """The texts of a test suite by row id, without the prompt around them; empty when the stage has no such suite.

    Raises UserError E209 when the file is not the one in the manifest.
    """
    name = f"test_{suite}.jsonl"
    files = json.loads(folder.manifest.read_text())["files"]
    return {row["id"]: row["text"] for row in _verified(folder.path / name, files[name]["sha256"])} if name in files else {}


def manifest_sha256(folder: StageDir) -> str:
    """The hash that stands for all rows of a data stage."""
    return hashlib.sha256(folder.manifest.read_bytes()).hexdigest()


def _lines(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in rows).encode()


def _rows(lines: Sequence[Mapping[str, Any]]) -> list[Row]:
    return [Row.from_json(line) for line in lines]


def _verified(path: Path, sha256: str) -> list[dict[str, Any]]:
    content = path.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        what = f"expected sha256 {sha256[:12]}, found {found[:12]}"
        raise user_error("E209", what, str(path), "delete the stage's folder and run the study again", Exit.INTEGRITY)
    # Split bytes, not text: a sentence may hold U+0085 or U+2028, which end a line of text but not of JSON lines.
    return [json.loads(line) for line in content.splitlines()]
