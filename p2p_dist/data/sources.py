"""Sources of a task's rows, in this order: `task.source`, `$P2P_DIST_DATA/<task>/`, the Hugging Face hub.

Locating is cheap and gives a digest that is part of every id, so the same name over other rows is another study.
Reading checks the digest again.
"""

import csv
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from p2p_dist import assets
from p2p_dist.data import images
from p2p_dist.data.example import RawRow
from p2p_dist.data.held_out import DEV
from p2p_dist.data.row_files import count_rows
from p2p_dist.data.tables import SUFFIXES, Raw, Rules, check_rows, read_rows
from p2p_dist.data.task import HubSource, Task
from p2p_dist.data.trusted_rows import TRUSTED
from p2p_dist.errors import Problem, user_error
from p2p_dist.registry import name_of


@dataclass(frozen=True)
class Source:
    """Located rows: `digest` is identity, `place` is their path or name on this machine."""

    kind: Literal["files", "embedded", "hub"]
    place: str
    digest: str
    rows: Mapping[str, int] = field(default_factory=dict, compare=False)
    """Rows of every split, for estimates; empty where a file does not tell cheaply."""
    row_bytes: float | None = field(default=None, compare=False)
    """Bytes of a training row in its file, on average, for estimates; None where the file does not tell cheaply."""


def locate(task: Task, dev: bool = False) -> Source:
    """Find the rows of a task without reading them, with those of its dev split (`dev`) where there are any.

    Raises UserError E201, which names every place that was tried.
    """
    if task.source == "embedded":
        if task.embedded is None:
            raise user_error("E201", f"task {name_of(task)} has no embedded rows", "task.source", "remove `source`")
        return Source("embedded", task.embedded, assets.ASSETS[task.embedded].sha256[:12])
    if task.source is not None:
        return _local(task, Path(task.source).expanduser(), "task.source", dev)
    root = os.environ.get("P2P_DIST_DATA")
    if root and not task.on_hub and (Path(root) / name_of(task)).is_dir():
        return _local(task, Path(root) / name_of(task), "$P2P_DIST_DATA", dev)
    hub = task.hub_source
    if hub is None:
        raise _nowhere(task, "no copy on the hub is known")
    if hub.revision is None:
        raise _nowhere(task, "no commit is pinned: set task.revision")
    return Source("hub", f"{hub.id}@{hub.revision}", hub.revision[:12])


def with_row_labels(task: Task, source: Source) -> Task:
    """The task with the labels of its rows, where the study does not name them; only then are the rows read."""
    if not task.unknown_labels:
        return task
    rules = _rules(task)
    if source.kind == "hub":
        assert task.hub_source is not None
        tables = _hub_tables(task, task.hub_source)
        names = [check_rows(rows, task.row_label, _place(task, split), rules=rules) for split, rows in tables.items()]
    else:
        files = _files(task, Path(source.place), "task.source")
        names = [read_rows(file, task.row_label, rules) for file in files.values()]
    return task.with_labels(name for split in names for name in split)


def read(
    task: Task, source: Source, dropped: list[Problem] | None = None, dev: bool = False
) -> dict[str, list[RawRow]]:
    """All rows by split; without the key "test" where the source has no test split, and with the key "dev" where it was
    located with `dev` and has such a split.

    Bad rows that the task drops are added to `dropped`. Raises UserError E208 if the rows changed.
    """
    rules = _rules(task)
    if dropped is not None:
        rules.dropped = dropped
    if source.kind == "hub":
        assert task.hub_source is not None
        tables = _hub_tables(task, task.hub_source)
        return {split: check_rows(rows, task.check, _place(task, split), rules=rules) for split, rows in tables.items()}
    if source.kind == "embedded":
        return {"train": _read_reviews(assets.path_of(source.place), name_of(task))}
    place = Path(source.place)
    if (digest := _local(task, place, "task.source", dev).digest) != source.digest:
        what = f"the rows changed: expected digest {source.digest}, found {digest}"
        raise user_error("E208", what, str(place), "plan the study again")
    files = _files(task, place, "task.source", dev)
    return {split: read_rows(file, task.check, rules) for split, file in files.items()}


def _rules(task: Task) -> Rules:
    return Rules(task.on_bad_row == "drop", task.label_type)


def _place(task: Task, split: str) -> str:
    """Place of the rows of a split on the hub, to be followed by a number."""
    assert task.hub_source is not None
    return f"{task.hub_source.id}, split {task.hub_source.splits[split]}, row "


def _local(task: Task, place: Path, named_by: str, dev: bool) -> Source:
    hashed = hashlib.sha256()
    files = _files(task, place, named_by, dev)
    for split, file in files.items():
        if split in (TRUSTED, DEV):
            hashed.update(f"\0{split}\0".encode())
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                hashed.update(block)
    if task.reads_images:
        hashed.update(images.listing(place))
    counts = {split: count_rows(file) for split, file in files.items()}
    rows = {split: count for split, count in counts.items() if count is not None}
    row_bytes = files["train"].stat().st_size / rows["train"] if rows.get("train") else None
    known = rows if len(rows) == len(counts) else {}
    return Source("files", str(place.resolve()), hashed.hexdigest()[:12], known, row_bytes)


def _files(task: Task, place: Path, named_by: str, dev: bool = False) -> dict[str, Path]:
    """The file of each split in a folder, or one file, which is split by content. Raises UserError E201."""
    if place.is_file():
        return {"train": place}
    files = {
        split: next((place / name for name in names if (place / name).is_file()), None)
        for split, names in task.files.items()
    }
    trusted = next((place / name for name in task.trusted_files if (place / name).is_file()), None)
    if trusted is not None:
        files = {split: file for split, file in files.items() if file is not None or split != "test"}
        files[TRUSTED] = trusted
    dev_files = [place / name for name in task.dev_files if dev and place / name not in files.values()]
    if dev_file := next((file for file in dev_files if file.is_file()), None):
        files[DEV] = dev_file
    missing = [task.files[split][0] for split, file in files.items() if file is None]
    if missing:
        expected = " and ".join(_any_of(names) for names in task.files.values())
        raise user_error("E201", f"no {' and '.join(missing)} in {place}", named_by, f"use a folder with {expected}")
    return {split: file for split, file in files.items() if file is not None}


def _any_of(names: Sequence[str]) -> str:
    return " or ".join(names) if len(names) < 3 else f"{names[0]} (or {', '.join(SUFFIXES[1:])})"


def _read_reviews(path: Path, source: str) -> list[RawRow]:
    """Rows of one source in the embedded review file (columns text, label, source)."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            RawRow(row["text"].strip(), int(row["label"])) for row in csv.DictReader(file) if row["source"] == source
        ]


def _hub_tables(task: Task, hub: HubSource) -> dict[str, Iterator[Raw]]:
    """Rows of every split, with the keys of local rows. Raises UserError E201."""
    from datasets import load_dataset  # seconds to import, and only needed here

    try:
        dataset = load_dataset(hub.id, hub.config, revision=hub.revision)
    except (OSError, ValueError, RuntimeError) as error:
        raise _nowhere(task, f"{type(error).__name__}: {str(error).splitlines()[0][:120]}") from error
    for hub_split in hub.splits.values():
        if hub_split not in dataset:
            what = f"data set {hub.id} has no split {hub_split!r}; it has {', '.join(dataset)}"
            raise user_error("E201", what, "task", "set train_split and test_split")
    return {split: _hub_rows(task, dataset[hub_split]) for split, hub_split in hub.splits.items()}


def _hub_rows(task: Task, rows: Any) -> Iterator[Raw]:
    """Rows with the keys of local rows, and with label names where the task has names. Raises UserError E203."""
    label_columns = {
        column: feature
        for column, feature in rows.features.items()
        if task.names_labels and hasattr(feature, "int2str")
    }
    for number, row in enumerate(rows):
        names = {
            column: feature.int2str(row[column]) if row[column] >= 0 else None  # -1: not labelled
            for column, feature in label_columns.items()
            if row[column] is not None
        }
        try:
            yield number, task.from_hub({**row, **names})
        except KeyError as error:
            what = f"the data set has no column {error}; it has {', '.join(row)}"
            raise user_error("E203", what, "the hub", "set another task.revision") from error


def _nowhere(task: Task, reason: str) -> Exception:
    """The error for rows that are at none of the three places; `reason` is the hub's."""
    root, name = os.environ.get("P2P_DIST_DATA"), name_of(task)
    source = task.hub_source
    commit = (source.revision or "no commit")[:12] if source else ""
    hub = f"hub data set {source.id} at {commit} ({reason})" if source else f"hub ({reason})"
    tried = (
        "task.source (not set)",
        f"$P2P_DIST_DATA/{name} ({Path(root) / name if root else 'P2P_DIST_DATA is not set'})",
        hub,
    )
    embedded = ", or set task.source=embedded" if task.embedded else ""
    fix = f"put a folder with rows at $P2P_DIST_DATA/{name}, or set task.source{embedded}"
    return user_error("E201", f"no rows for task {name}; tried {'; '.join(tried)}", fix=fix)
