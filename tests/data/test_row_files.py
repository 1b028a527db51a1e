"""Formats of rows: read as they are meant, or refused with file and line. A test per kind of public bug report."""

import gzip
import json
import random
import re
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import zstandard
from pyarrow import ipc, parquet

from p2p_dist.data import compressed_files, sources
from p2p_dist.data.example import RawRow
from p2p_dist.data.tasks.custom import Custom
from p2p_dist.errors import Problem, UserError

ROWS = [{"text": "fine", "label": "good"}, {"text": "bad\tday", "label": "bad"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
READ = [RawRow("fine", 1), RawRow("bad\tday", 0)]


def read(path: Path, **options: Any) -> list[RawRow]:
    """Rows of a file, with the labels that it has."""
    task = Custom(source=str(path), **options)
    source = sources.locate(task)
    return sources.read(sources.with_row_labels(task, source), source)["train"]  # type: ignore[arg-type]


def gzipped(content: bytes) -> bytes:
    """Bytes of a gzip file without a time: names of tests hold them, and must be the same in every test process."""
    return gzip.compress(content, mtime=0)


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(path, **options)
    return str(caught.value)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", b"\xef\xbb\xbf" + LINES),
        ("rows.jsonl.gz", gzipped(LINES)),
        ("rows.jsonl", gzipped(LINES[:30]) + gzipped(LINES[30:])),
        ("rows.jsonl.zst", zstandard.compress(LINES[:30]) + zstandard.compress(LINES[30:])),
        ("rows.json", json.dumps(ROWS, indent=2)),
        ("rows.json", b"\xef\xbb\xbf" + json.dumps(ROWS).encode()),
        ("rows.json", LINES),
        ("rows.csv", b'\xef\xbb\xbftext,label\nfine,good\n"bad\tday",bad\n'),
    ],
)
def test_rows_of_a_format_are_read(tmp_path: Path, name: str, content: str | bytes) -> None:
    assert read(write(tmp_path / name, content)) == READ


def test_csv_cell_of_any_size_is_read(tmp_path: Path) -> None:
    long = "x" * 200_000
    rows = read(write(tmp_path / "rows.csv", f"text,label\n{long},a\nshort,b\n"))
    assert rows == [RawRow(long, 0), RawRow("short", 1)]


def test_arrow_file_and_stream_are_read(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist(ROWS)
    for name, opened in (("file.arrow", ipc.new_file), ("stream.arrow", ipc.new_stream)):
        with opened(tmp_path / name, table.schema) as file:
            file.write_table(table)
        assert read(tmp_path / name) == READ


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ('{"text": "a", "label": NaN}', r"E203.*column 'label' is NaN.*rows\.jsonl:2"),
        ('{"text": NaN, "label": "a"}', r"E203.*column 'text' is NaN.*rows\.jsonl:2"),
        ('{"text": null, "label": "a"}', r"column 'text' is null.*rows\.jsonl:2"),
        ('{"text": {"a": 1}, "label": "a"}', r"a mapping with the keys a.*text\.a.*rows\.jsonl:2"),
        ('{"text": [{"role": "user"}], "label": "a"}', r"chat_column: text.*rows\.jsonl:2"),
        ('{"text": "a", "label": ["a"]}', r"column 'label' is a list of 1.*rows\.jsonl:2"),
        ('{"text": "\\ud800", "label": "a"}', r"column 'text' has a lone surrogate.*rows\.jsonl:2"),
        ('{"text": "a", "label": "\\ud800"}', r"column 'label' has a lone surrogate.*rows\.jsonl:2"),
        ('{"text": "a", "label": "a", "label": "b"}', r"E202.*two values for the key 'label'.*rows\.jsonl:2"),
        ('{"text": "a", "label": 1}', r"E203.*2 types: a string at .*rows\.jsonl:1, a number at .*rows\.jsonl:2"),
        ('{"text": "a", "label": true}', "a boolean at"),
        ('{"text": "a", "label": "b", "x": ' + "[" * 100_000 + "]" * 100_000 + "}", r"nested too deeply.*:2"),
        ('{"text": "a", "label": ' + "1" * 5000 + "}", r"column 'label' is of the type _LongNumber"),
        ('{"text": "a"}', r"column 'label' is missing; the row has text.*rows\.jsonl:2"),
    ],
)
def test_bad_json_line_refused_with_its_place(tmp_path: Path, lines: str, says: str) -> None:
    path = write(tmp_path / "rows.jsonl", '{"text": "fine", "label": "good"}\n' + lines + "\n")
    with pytest.raises(UserError, match=says):
        read(path)


def test_numbers_of_one_value_are_one_label(tmp_path: Path) -> None:
    lines = '{"text": "a", "label": 0}\n{"text": "b", "label": 0.0}\n{"text": "c", "label": 1}\n'
    assert [row.label for row in read(write(tmp_path / "rows.jsonl", lines))] == [0, 0, 1]


def test_unused_columns_are_not_looked_at(tmp_path: Path) -> None:
    odd = ["1" * 5000, "NaN", '{"a": null}', '"\\ud800"', "true"]
    lines = "".join(f'{{"text": "a{n}", "label": "{n % 2}", "x": {value}}}\n' for n, value in enumerate(odd))
    assert len(read(write(tmp_path / "rows.jsonl", lines))) == len(odd)
    column = pyarrow.Array.from_buffers(
        pyarrow.string(), 2, [None, pyarrow.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pyarrow.py_buffer(b"\xff\xfe")]
    )
    table = pyarrow.table({"text": ["a", "b"], "label": ["x", "y"], "unused": column})
    parquet.write_table(table, tmp_path / "rows.parquet")
    assert len(read(tmp_path / "rows.parquet")) == 2
    assert "column 'unused' cannot be read" in refused(tmp_path / "rows.parquet", text_column="unused")


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"text": ["a", "b"], "label": [0.0, float("nan")]}, r"column 'label' is NaN.*rows\.parquet:2"),
        ({"text": ["a", None], "label": ["x", "y"]}, r"column 'text' is null.*rows\.parquet:2"),
        ({"text": [b"a", b"b"], "label": ["x", "y"]}, "column 'text' is bytes"),
        ({"text": [["a"], ["b"]], "label": ["x", "y"]}, "column 'text' is a list of 1"),
        ({"text": [{"en": "a"}, {"en": "b"}], "label": ["x", "y"]}, r"such as text\.en"),
    ],
)
def test_bad_parquet_cell_refused_with_its_place(tmp_path: Path, columns: dict[str, list[Any]], says: str) -> None:
    parquet.write_table(pyarrow.table(columns), tmp_path / "rows.parquet")
    with pytest.raises(UserError, match=says):
        read(tmp_path / "rows.parquet")


def test_nested_column_is_read_by_its_path(tmp_path: Path) -> None:
    nested = [{"meta": {"text": row["text"], "tone": {"label": row["label"]}}} for row in ROWS]
    parquet.write_table(pyarrow.Table.from_pylist(nested), tmp_path / "rows.parquet")
    write(tmp_path / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in nested))
    for name in ("rows.parquet", "rows.jsonl"):
        assert read(tmp_path / name, text_column="meta.text", label_column="meta.tone.label") == READ


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("rows.csv", "text,label,text\na,b,c\n", r"E202.*two columns have the name 'text' at .*rows\.csv:1"),
        ("rows.tsv", 'text\tlabel\n"a\t1\nb"\t0\n', r"E202.*a quoted cell with a tab.*rows\.tsv:3"),
        ("rows.json", '[\n{"text": "a", "label": "b"},\n{"text": "b" "label": "c"}]', r"E202.*rows\.json:3"),
        ("rows.json", '[{"text": "a", "label": "b"}', r"E202.*no comma behind a row.*rows\.json:1"),
        ("rows.jsonl", "\ufefftext".encode("utf-16"), "E202.*UTF-16"),
        ("rows.csv", b"text,label\n\xff,1\n", "E202.*UTF-8"),
        ("rows.jsonl.gz", gzipped(LINES)[:-20], r"E202.*cut off"),
        ("rows.jsonl.zst", zstandard.compress(LINES)[:-5], r"E202.*cut off"),
        ("rows.parquet.gz", gzipped(b"PAR1"), "E210"),
    ],
)
def test_damaged_file_refused(tmp_path: Path, name: str, content: str | bytes, says: str) -> None:
    with pytest.raises(UserError, match=says):
        read(write(tmp_path / name, content))


def test_arrow_file_with_offsets_out_of_bounds_refused(tmp_path: Path) -> None:
    """Converting a cell of it would end the process; a column that nobody reads is not looked at."""
    offsets = pyarrow.py_buffer(b"\0\0\0\0\x7f\0\0\0\1\0\0\0")
    damaged = pyarrow.Array.from_buffers(pyarrow.string(), 2, [None, offsets, pyarrow.py_buffer(b"ab")])
    table = pyarrow.table({"text": ["a", "b"], "label": ["x", "y"], "odd": damaged})
    with ipc.new_file(tmp_path / "rows.arrow", table.schema) as file:
        file.write_table(table)
    assert len(read(tmp_path / "rows.arrow")) == 2
    assert re.search(r"E202.*damaged: .*rows\.arrow", refused(tmp_path / "rows.arrow", text_column="odd"))


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_decompression_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compress: Any) -> None:
    monkeypatch.setattr(compressed_files, "_UNPACKED", 10_000)
    monkeypatch.setattr(compressed_files, "_RATIO", 2)
    bomb = write(tmp_path / "rows.jsonl.gz", compress(b" " * 10_000_000))
    assert re.search(r"more than [\d,]{5,6} bytes when decompressed", refused(bomb))
    text = "".join(f'{{"text": "{random.Random(n).random()}", "label": "{n % 2}"}}\n' for n in range(50))
    assert len(read(write(tmp_path / "fine.jsonl.gz", compress(text.encode())))) == 50


def test_wrong_column_is_one_error(tmp_path: Path) -> None:
    message = refused(write(tmp_path / "rows.jsonl", LINES * 600), text_column="txt")
    assert message.count("error[") == 1
    assert "no row has a column 'txt' (did you mean 'text'?); the columns are text, label" in message


def test_dropped_rows_are_listed_with_reasons(tmp_path: Path) -> None:
    lines = LINES + b'{"text": "a", "label": NaN}\n{"text": \n' + LINES
    task = Custom(source=str(write(tmp_path / "rows.jsonl", lines)), on_bad_row="drop")
    source = sources.locate(task)
    named = sources.with_row_labels(task, source)
    assert named.labels == ("bad", "good")
    dropped: list[Problem] = []
    assert sources.read(named, source, dropped)["train"] == READ * 2
    assert [problem.where.rpartition(":")[2] for problem in dropped] == ["3", "4"]
    assert "NaN" in dropped[0].what
    assert "on_bad_row=drop" in refused(tmp_path / "rows.jsonl")


def test_rows_all_dropped_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", '{"text": "a", "label": NaN}\n')
    assert "no rows (1 were dropped)" in refused(path, on_bad_row="drop")
