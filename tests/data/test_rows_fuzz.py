"""Any bytes in a file of rows are rows or a UserError with place; never a traceback."""

import gzip
import io
import json
import os
from pathlib import Path

import pyarrow
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import ipc, parquet

from p2p_dist.data import sources
from p2p_dist.data.row_files import SUFFIXES
from p2p_dist.data.tasks.custom import Custom
from p2p_dist.errors import UserError

ROWS = [{"text": f"row {n}", "label": str(n % 2), "extra": None} for n in range(6)]
CELLS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["\ud800", "nan"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
FUZZ = settings(
    max_examples=int(os.environ.get("P2P_DIST_FUZZ", "20")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def sample(suffix: str) -> bytes:
    """A good file."""
    if suffix == ".json":
        return json.dumps(ROWS).encode()
    if suffix == ".jsonl":
        return "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    if suffix in (".csv", ".tsv"):
        mark = "," if suffix == ".csv" else "\t"
        return "\n".join(mark.join(map(str, values)) for values in [ROWS[0], *(row.values() for row in ROWS)]).encode()
    sink, table = io.BytesIO(), pyarrow.Table.from_pylist(ROWS)
    if suffix == ".parquet":
        parquet.write_table(table, sink)
    else:
        with ipc.new_file(sink, table.schema) as file:
            file.write_table(table)
    return sink.getvalue()


def read_or_refused(path: Path, **options: object) -> bool:
    """True for rows, False for a UserError that names the file; anything else is raised."""
    task = Custom.model_validate({"source": str(path), **options})
    try:
        source = sources.locate(task)
        named = sources.with_row_labels(task, source)
        return bool(sources.read(named, source)["train"])  # type: ignore[arg-type]
    except UserError as error:
        message = str(error)
    assert str(path) in message or "column" in message
    assert message.encode(), "it can be printed"
    return False


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".jsonl.gz", ".csv.zst"])
def test_damaged_bytes_are_rows_or_refused(tmp_path: Path, suffix: str) -> None:
    text_suffix, _, packed = suffix[1:].partition(".")
    good = sample(f".{text_suffix}")
    good = gzip.compress(good) if packed == "gz" else zstandard.compress(good) if packed else good
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(good)
    assert read_or_refused(path)

    @FUZZ
    @given(st.integers(0, len(good)), st.integers(0, len(good)), st.binary(max_size=8))
    def damage(start: int, length: int, patch: bytes) -> None:
        path.write_bytes(good[:start] + patch + good[start + length :])
        read_or_refused(path)

    damage()


@FUZZ
@given(rows=st.lists(st.fixed_dictionaries({}, optional={"text": CELLS, "label": CELLS, "m": CELLS}), max_size=4))
def test_any_json_cells_are_rows_or_refused(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read_or_refused(path)
    read_or_refused(path, on_bad_row="drop")
    read_or_refused(path, text_column="m.a", response_column="label", judge="number")
    read_or_refused(path, chat_column="m")


@FUZZ
@given(content=st.binary(max_size=60))
def test_any_bytes_are_rows_or_refused(tmp_path: Path, content: bytes) -> None:
    for suffix in SUFFIXES:
        path = tmp_path / f"rows{suffix}"
        path.write_bytes(content)
        read_or_refused(path)
