"""Where the rows of a task come from, in this order: what the study names, `$P2P_DIST_DATA/<task>/`, the hub.

Locating is cheap and gives a digest that is part of every id, so that the same name over other rows is another study.
Reading checks that digest again.
"""

import csv
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from p2p_dist import assets
from p2p_dist.data import images
from p2p_dist.data.example import RawRow
from p2p_dist.data.tables import SUFFIXES, Raw, checked, read_mappings, read_rows
from p2p_dist.data.task import HubSource, Task
from p2p_dist.errors import user_error
from p2p_dist.registry import name_of


@dataclass(frozen=True)
class Source:
    """Rows that were found: `digest` is identity, `place` is where this machine has them."""

    kind: Literal["files", "embedded", "hub"]
    place: str
    digest: str


def locate(task: Task) -> Source:
    """Find the rows of a task without reading them all. Raises UserError E201 that names every place looked at."""
    if task.source == "embedded":
        if task.embedded is None:
            raise user_error("E201", f"task {name_of(task)} has no embedded rows", "task.source", "leave `source` out")
        return Source("embedded", task.embedded, assets.ASSETS[task.embedded].sha256[:12])
    if task.source is not None:
        return _local(task, Path(task.source).expanduser(), "task.source")
    root = os.environ.get("P2P_DIST_DATA")
    if root and not task.on_hub and (Path(root) / name_of(task)).is_dir():
        return _local(task, Path(root) / name_of(task), "$P2P_DIST_DATA")
    hub = task.hub_source
    if hub is None:
        raise _nowhere(task, "no copy on the hub is known")
    if hub.revision is None:
        raise _nowhere(task, "no commit is pinned: name one with task.revision")
    return Source("hub", f"{hub.id}@{hub.revision}", hub.revision[:12])


def with_row_labels(task: Task, source: Source) -> Task:
    """The task with its labels: those of its rows, where the study does not name them. Reads all rows then."""
    if not task.unknown_labels:
        return task
    if source.kind == "hub":
        assert task.hub_source is not None
        return task.with_labels(row for rows in _hub_tables(task, task.hub_source).values() for _, row in rows)
    return task.with_labels(
        row for file in _files(task, Path(source.place), "task.source").values() for _, row in read_mappings(file)
    )


def read(task: Task, source: Source) -> dict[str, list[RawRow]]:
    """All rows by split, with "test" left out where the source has no test split of its own."""
    if source.kind == "hub":
        assert task.hub_source is not None
        return _read_hub(task, task.hub_source)
    if source.kind == "embedded":
        return {"train": _read_reviews(assets.path_of(source.place), name_of(task))}
    place = Path(source.place)
    if (found := _local(task, place, "task.source").digest) != source.digest:
        raise user_error(
            "E208",
            f"the rows changed: expected digest {source.digest}, found {found}",
            str(place),
            "plan the study again",
        )
    return {split: read_rows(file, task.check) for split, file in _files(task, place, "task.source").items()}


def _local(task: Task, place: Path, named_by: str) -> Source:
    hashed = hashlib.sha256()
    for file in _files(task, place, named_by).values():
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                hashed.update(block)
    if task.reads_images:
        hashed.update(images.listing(place))
    return Source("files", str(place.resolve()), hashed.hexdigest()[:12])


def _files(task: Task, place: Path, named_by: str) -> dict[str, Path]:
    """The file of each split in a folder, or one file to be split by content."""
    if place.is_file():
        return {"train": place}
    found = {
        split: next((place / name for name in names if (place / name).is_file()), None)
        for split, names in task.files.items()
    }
    missing = [task.files[split][0] for split, file in found.items() if file is None]
    if missing:
        fix = f"a folder with {' and '.join(names[0] for names in task.files.values())} (or {', '.join(SUFFIXES[1:])})"
        raise user_error("E201", f"no {' and '.join(missing)} in {place}", named_by, fix)
    return {split: file for split, file in found.items() if file is not None}


def _read_reviews(path: Path, source: str) -> list[RawRow]:
    """The rows of one source in the embedded review file (columns text, label, source)."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            RawRow(row["text"].strip(), int(row["label"])) for row in csv.DictReader(file) if row["source"] == source
        ]


def _read_hub(task: Task, hub: HubSource) -> dict[str, list[RawRow]]:
    tables = _hub_tables(task, hub)
    return {
        split: checked(rows, task.check, f"{hub.id}, split {hub.splits[split]}, row ") for split, rows in tables.items()
    }


def _hub_tables(task: Task, hub: HubSource) -> dict[str, Iterator[Raw]]:
    """The rows of every split, with the keys of local rows."""
    from datasets import load_dataset  # seconds to import, and only needed here

    try:
        found = load_dataset(hub.id, hub.config, revision=hub.revision)
    except (OSError, ValueError, RuntimeError) as error:
        raise _nowhere(task, f"{type(error).__name__}: {str(error).splitlines()[0][:120]}") from error
    for theirs in hub.splits.values():
        if theirs not in found:
            raise user_error(
                "E201",
                f"data set {hub.id} has no split {theirs!r}; it has {', '.join(found)}",
                "task",
                "train_split and test_split",
            )
    return {split: _hub_rows(task, found[theirs]) for split, theirs in hub.splits.items()}


def _hub_rows(task: Task, rows: Any) -> Iterator[Raw]:
    """Rows with the keys of local rows, and with the names of labels where the task goes by names."""
    named = {
        column: feature
        for column, feature in rows.features.items()
        if task.names_labels and hasattr(feature, "int2str")
    }
    for number, row in enumerate(rows):
        try:
            yield (
                number,
                task.from_hub(
                    {
                        **row,
                        **{
                            column: feature.int2str(row[column])
                            for column, feature in named.items()
                            if row[column] is not None
                        },
                    }
                ),
            )
        except KeyError as error:
            raise user_error(
                "E203",
                f"the data set has no column {error}; it has {', '.join(row)}",
                "the hub",
                "another task.revision",
            ) from error


def _nowhere(task: Task, why: str) -> Exception:
    """The error that names all three places."""
    root, name = os.environ.get("P2P_DIST_DATA"), name_of(task)
    known = task.hub_source
    hub = f"hub data set {known.id} at {(known.revision or 'no commit')[:12]} ({why})" if known else f"hub ({why})"
    tried = (
        "task.source (not set)",
        f"$P2P_DIST_DATA/{name} ({Path(root) / name if root else 'P2P_DIST_DATA is not set'})",
        hub,
    )
    fix = f"a folder with rows as $P2P_DIST_DATA/{name}, or as task.source" + (
        ", or task.source=embedded" if task.embedded else ""
    )
    return user_error("E201", f"no rows for task {name}; looked at {'; '.join(tried)}", fix=fix)
