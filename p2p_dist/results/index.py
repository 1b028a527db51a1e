"""Index of a study: every finished stage in one Parquet file, derived from the stages' own files.

It can be deleted at any time. A refresh reads only files that are new or changed, by modification time and size, and
gives the same index as a rebuild. The file is replaced atomically.
"""

import contextlib
import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from p2p_dist.errors import Problem, UserError
from p2p_dist.results import atomic, confined, records, resultfile
from p2p_dist.results.folder_handles import Damaged
from p2p_dist.results.paired_rates import excesses
from p2p_dist.results.resultfile import Result
from p2p_dist.results.rundir import MARKERS, RunDir, StageDir
from p2p_dist.results.statistics import wilson_bounds

VERSION = b"4"
_LARGEST = 1 << 30
"""Bytes of the largest index that is read; a larger one is built again."""

_RATE = pa.struct(
    [
        ("rate", pa.string()),
        ("k", pa.int64()),
        ("n", pa.int64()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
    ]
)
_MEAN = pa.struct([("name", pa.string()), ("mean", pa.float64()), ("n", pa.int64())])
_COUNT = pa.struct([("suite", pa.string()), ("gold", pa.string()), ("said", pa.string()), ("count", pa.int64())])
_COST = {
    "started": pa.float64(),
    "seconds": pa.float64(),
    "gpu_seconds": pa.float64(),
    "energy_joules": pa.float64(),
    "cohort": pa.int64(),
    "steps": pa.int64(),
    "rows": pa.int64(),
    "tokens": pa.int64(),
    "peak_memory_mib": pa.float64(),
    "host": pa.string(),
    "device": pa.string(),
    "code": pa.string(),
}
_RESULT = {
    "adapter": pa.string(),
    "data": pa.string(),
    "n_classes": pa.int64(),
    "label_offset": pa.int64(),
    "target": pa.int64(),
    "collapsed": pa.bool_(),
    "dtype": pa.string(),
    "torch": pa.string(),
    "transformers": pa.string(),
    "base": pa.string(),
    "adapter_sha256": pa.string(),
    "data_manifest_sha256": pa.string(),
    "rates": pa.list_(_RATE),
    "means": pa.list_(_MEAN),
    "histograms": pa.list_(_COUNT),
}
SCHEMA = pa.schema(
    {"id": pa.string(), "kind": pa.string(), "signature": pa.string(), "attempts": pa.int64(), **_COST, **_RESULT},
    metadata={"p2p_dist": VERSION},
)


@dataclass(frozen=True)
class Index:
    """The table of finished stages (see `SCHEMA`), the invalid files, and the number of stages that were read."""

    table: pa.Table
    problems: list[Problem]
    read: int


def refresh(folder: RunDir) -> Index:
    """Update the index from the folder and return it. A missing, foreign or damaged index is rebuilt."""
    current = dict(_signatures(folder))
    old = _load(folder)
    indexed = dict(zip(old["id"].to_pylist(), old["signature"].to_pylist(), strict=True))
    changed = {id_ for id_, (signature, _) in current.items() if indexed.get(id_) != signature}
    outdated = indexed.keys() & changed | indexed.keys() - current.keys()
    rows: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for id_ in changed:
        signature, kind = current[id_]
        if row := _row(folder.at(kind, id_), signature, problems):
            rows.append(row)
    if not rows and not outdated and confined.kind_of(folder.index) == "file":
        return Index(old, problems, len(changed))
    unchanged = old.filter(pc.invert(pc.is_in(old["id"], pa.array(list(outdated), pa.string()))))
    table = (
        pa.concat_tables([unchanged, pa.Table.from_pylist(_with_bounds(rows), SCHEMA)])
        .sort_by("id")
        .replace_schema_metadata(SCHEMA.metadata)
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    with contextlib.suppress(UserError):  # a folder that cannot be written is read without an index
        atomic.write_bytes(folder.index, buffer.getvalue())
    return Index(table, problems, len(changed))


def rebuild(folder: RunDir) -> Index:
    """Delete the index and build it again."""
    confined.remove(folder.index)
    return refresh(folder)


def _load(folder: RunDir) -> pa.Table:
    try:
        table = pq.read_table(pa.BufferReader(confined.read_bytes(folder.index, _LARGEST)))
        table.validate(full=True)
    except (FileNotFoundError, Damaged, pa.ArrowException, OSError):
        return SCHEMA.empty_table()
    is_current = table.schema.equals(SCHEMA) and (table.schema.metadata or {}).get(b"p2p_dist") == VERSION
    return table if is_current else SCHEMA.empty_table()


def _signatures(folder: RunDir) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield (id, (signature, kind)) of every finished stage; the signature changes with any file in its folder."""
    for kind, marker in MARKERS.items():
        if confined.kind_of(folder.path / kind) != "folder":
            continue
        with os.scandir(folder.path / kind) as entries:
            for entry in entries:
                if entry.name.startswith(".") or not entry.is_dir(follow_symlinks=False):
                    continue
                if version := _file_version(f"{entry.path}/{marker}"):
                    yield entry.name, (f"{entry.stat().st_mtime_ns}:{version}", kind)


def _file_version(path: str) -> str:
    """Size, modification time and inode of a file; empty when it is missing."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return ""
    return f"{status.st_size}:{status.st_mtime_ns}:{status.st_ino}"


def _row(stage: StageDir, signature: str, problems: list[Problem]) -> dict[str, Any] | None:
    """Index row of a stage; None for an invalid result. Every refresh reads invalid files again, so that they are
    reported until they are dealt with."""
    problems_before = len(problems)
    cost = records.read(stage.cost, records.Cost, problems)
    result = resultfile.read(stage) if stage.kind == "eval" else None
    if stage.kind == "eval" and not isinstance(result, Result):
        problems.append(result or Problem("E502", "deleted while it was read", str(stage.result), "run again"))
        return None
    signature = signature if len(problems) == problems_before else ""
    base = {
        "id": stage.path.name,
        "kind": stage.kind,
        "signature": signature,
        "attempts": len(stage.attempt_folders()),
        **{key: cost.get(key) for key in _COST},
    }
    return {**base, **_result_columns(result)} if isinstance(result, Result) else base


def _result_columns(result: Result) -> dict[str, Any]:
    counts = [
        {"suite": suite, "gold": gold, "said": answer, "count": count}
        for suite, table in result.histograms.items()
        for gold, row in table.items()
        for answer, count in row.items()
    ]
    return {
        "adapter": result.stage.reads.get("adapter"),
        "data": result.stage.reads.get("rows"),
        "n_classes": result.labels.n_classes if result.labels else None,
        "label_offset": result.labels.offset if result.labels else None,
        "target": result.labels.target if result.labels else None,
        "collapsed": result.collapsed,
        "dtype": result.dtype,
        **{name: result.versions.get(name) for name in ("torch", "transformers")},
        **{name: result.inputs.get(name) for name in ("base", "adapter_sha256", "data_manifest_sha256")},
        "rates": [
            *({"rate": name, "k": entry.k, "n": entry.n, "value": entry.rate} for name, entry in result.rates.items()),
            *_excesses(result),
        ],
        "means": [{"name": name, "mean": entry.mean, "n": entry.n} for name, entry in result.means.items()],
        "histograms": counts,
    }


def _excesses(result: Result) -> list[dict[str, Any]]:
    """The excess of attack success as further rates, with their paired intervals; k may be negative."""
    counts = {name: (entry.k, entry.n) for name, entry in result.rates.items()}
    return [
        {"rate": name, "k": excess.k, "n": excess.n, "value": excess.value, "low": excess.low, "high": excess.high}
        for name, excess in excesses(counts).items()
    ]


def _with_bounds(rows: list[dict[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows with a Wilson interval for each rate that has no interval yet, all computed in one call."""
    rates = [rate for row in rows for rate in row.get("rates", ()) if "low" not in rate]
    low, high = wilson_bounds([rate["k"] for rate in rates], [rate["n"] for rate in rates]) if rates else ([], [])
    for rate, bottom, top in zip(rates, low, high, strict=True):
        rate["low"], rate["high"] = bottom, top
    return list(rows)
