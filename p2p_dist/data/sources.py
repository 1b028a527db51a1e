"""Where the rows of a task come from, in this order: what the study names, `$P2P_DIST_DATA/<task>/`, the hub.

Locating is cheap and gives a digest that is part of every id, so that the same name over other rows is another study.
Reading checks that digest again.
"""

import csv
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from p2p_dist import assets
from p2p_dist.data.task import RawRow, Task
from p2p_dist.errors import Problem, UserError, user_error
from p2p_dist.registry import name_of

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Source:
    """Rows that were found: `digest` is identity, `place` is where this machine has them."""

    kind: Literal["folder", "embedded", "hub"]
    place: str
    digest: str


def locate(task: Task) -> Source:
    """Find the rows of a task without reading them all. Raises UserError E201 that names every place looked at."""
    if task.source == "embedded":
        if task.embedded is None:
            raise user_error("E201", f"task {name_of(task)} has no embedded rows", "task.source", "leave `source` out")
        return Source("embedded", task.embedded, assets.ASSETS[task.embedded].sha256[:12])
    if task.source is not None:
        return _folder(Path(task.source).expanduser(), "task.source")
    root = os.environ.get("P2P_DIST_DATA")
    if root and (Path(root) / name_of(task)).is_dir():
        return _folder(Path(root) / name_of(task), "$P2P_DIST_DATA")
    return Source("hub", f"{task.hub.id}@{task.hub.revision}", task.hub.revision[:12])


def read(task: Task, source: Source) -> dict[str, list[RawRow]]:
    """All rows by split, with "test" left out where the source has no test split of its own."""
    if source.kind == "hub":
        return _read_hub(task)
    if source.kind == "embedded":
        return {"train": _read_reviews(assets.path_of(source.place), name_of(task))}
    folder = Path(source.place)
    if (found := _folder(folder, "task.source").digest) != source.digest:
        raise user_error("E208", f"the rows changed: expected digest {source.digest}, found {found}", str(folder), "plan the study again")
    return {split: list(_read_jsonl(folder / f"{split}.jsonl", len(task.labels))) for split in SPLITS}


def _folder(folder: Path, named_by: str) -> Source:
    missing = [split for split in SPLITS if not (folder / f"{split}.jsonl").is_file()]
    if missing:
        files = " and ".join(f"{split}.jsonl" for split in missing)
        raise user_error("E201", f"no {files} in {folder}", named_by, "JSON lines with the keys text and label")
    hashed = hashlib.sha256()
    for split in SPLITS:
        hashed.update((folder / f"{split}.jsonl").read_bytes())
    return Source("folder", str(folder.resolve()), hashed.hexdigest()[:12])


def _read_jsonl(path: Path, n_classes: int) -> Iterator[RawRow]:
    """Rows of a file; all bad lines are reported together (the first five in words)."""
    problems: list[Problem] = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = _checked(json.loads(line.decode("utf-8")), n_classes)
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            problems.append(Problem("E202", f"not a JSON object in UTF-8: {error}", f"{path}:{number}"))
        except ValueError as error:
            problems.append(Problem("E203", str(error), f"{path}:{number}", f"text, and a label from 0 to {n_classes - 1}"))
        else:
            yield row
    if problems:
        more = [Problem("E203", f"and {len(problems) - 5} more bad lines", str(path))] if len(problems) > 5 else []
        raise UserError(*problems[:5], *more)


def _checked(row: Any, n_classes: int) -> RawRow:
    if not isinstance(row, Mapping) or not isinstance(row.get("text"), str) or not row["text"].strip():
        raise ValueError("key 'text' is missing, empty or not text")
    label = row.get("label")
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < n_classes:
        raise ValueError(f"label {label!r} is not one of the {n_classes} classes")
    return row["text"].strip(), label


def _read_reviews(path: Path, source: str) -> list[RawRow]:
    """The rows of one source in the embedded review file (columns text, label, source)."""
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["text"].strip(), int(row["label"])) for row in csv.DictReader(file) if row["source"] == source]


def _read_hub(task: Task) -> dict[str, list[RawRow]]:
    from datasets import load_dataset  # seconds to import, and only needed here

    hub, name = task.hub, name_of(task)
    try:
        found = load_dataset(hub.id, revision=hub.revision)
    except (OSError, ValueError, RuntimeError) as error:
        root = os.environ.get("P2P_DIST_DATA")
        tried = (
            "task.source (not set)",
            f"$P2P_DIST_DATA/{name} ({Path(root) / name if root else 'P2P_DIST_DATA is not set'})",
            f"hub data set {hub.id} at {hub.revision[:12]} ({type(error).__name__}: {str(error).splitlines()[0][:120]})",
        )
        fix = f"a folder with train.jsonl and test.jsonl as {tried[1].split(' ')[0]}, or as task.source" + (
            ", or task.source=embedded" if task.embedded else ""
        )
        raise user_error("E201", f"no rows for task {name}; looked at {'; '.join(tried)}", fix=fix) from error
    return {split: [(str(row[hub.text]).strip(), int(row[hub.label])) for row in found[theirs]] for split, theirs in hub.splits.items()}
