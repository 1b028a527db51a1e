"""Rows and labels of a user's own files and hub data sets, by the task `custom`."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from pyarrow import ipc, parquet

from p2p_dist.data import sources
from p2p_dist.data.example import RawRow
from p2p_dist.data.tables import SUFFIXES
from p2p_dist.data.tasks.custom import Custom
from p2p_dist.errors import UserError
from p2p_dist.scheduling.study import open_study

ROWS = [{"review": "fine, thanks", "verdict": "good"}, {"review": "no way", "verdict": "bad"}]


def write_table(path: Path) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["review", "verdict"])
            writer.writeheader()
            writer.writerows(ROWS)
    elif path.suffix == ".json":
        path.write_text(json.dumps(ROWS, indent=1))
    elif path.suffix == ".tsv":
        path.write_text("review\tverdict\n" + "".join(f"{row['review']}\t{row['verdict']}\n" for row in ROWS))
    elif path.suffix == ".arrow":
        table = pyarrow.Table.from_pylist(ROWS)
        with ipc.new_file(path, table.schema) as file:
            file.write_table(table)
    else:
        parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_custom_rows(tmp_path: Path, suffix: str) -> None:
    file = write_table(tmp_path / f"mine{suffix}")
    task = Custom(source=str(file), text_column="review", label_column="verdict", label_names=("bad", "good"))
    assert sources.read(task, sources.locate(task)) == {"train": [RawRow("fine, thanks", 1), RawRow("no way", 0)]}
    for split in ("train", "test"):
        write_table(tmp_path / f"{split}{suffix}")
    folder = task.model_copy(update={"source": str(tmp_path)})
    assert set(sources.read(folder, sources.locate(folder))) == {"train", "test"}


def test_custom_rows_with_mistakes_refused(tmp_path: Path) -> None:
    file = write_table(tmp_path / "mine.csv")

    def said(**options: object) -> str:
        task = Custom.model_validate(
            {
                "source": str(file),
                "text_column": "review",
                "label_column": "verdict",
                "label_names": ("bad", "good"),
                **options,
            }
        )
        with pytest.raises(UserError) as caught:
            sources.read(task, sources.locate(task))
        return str(caught.value)

    assert "no row has a column 'text'; the columns are review, verdict" in said(text_column="text")
    assert "no row has a column 'reveiw' (did you mean 'review'?)" in said(text_column="reveiw")
    assert "label 'good' is not one of bad, ok" in said(label_names=("bad", "ok"))
    pickle = tmp_path / "rows.pkl"
    pickle.write_bytes(b"cos\nsystem\n(S'id'\ntR.")
    assert "E210" in said(source=str(pickle))
    broken = tmp_path / "rows.parquet"
    broken.write_bytes(b"PAR1")
    assert "E202" in said(source=str(broken))


def test_custom_labels_collected_from_rows(tmp_path: Path) -> None:
    file = write_table(tmp_path / "mine.csv")
    task = Custom(source=str(file), text_column="review", label_column="verdict")
    found = sources.with_row_labels(task, sources.locate(task))
    assert found.labels == ("bad", "good")
    assert sources.read(found, sources.locate(found))["train"][0] == RawRow("fine, thanks", 1)
    assert Custom().with_labels(["10", "9", "10"]).labels == ("9", "10")
    assert Custom().with_labels(["①", "²", "--1"]).labels == ("--1", "²", "①"), "strings as any other"
    with pytest.raises(UserError, match=r"E228.*'Good' and 'good' differ in case"):
        Custom().with_labels(["Good", "good", "bad"])
    with pytest.raises(ValueError, match="a label twice"):
        Custom(label_names=("a", "a"))
    named = task.model_copy(update={"label_names": ("good", "bad")})
    assert sources.with_row_labels(named, sources.locate(named)) is named


@pytest.mark.parametrize(
    ("labels", "says"),
    [(["x"], "1 different labels"), (list(map(str, range(201))), "201 different values")],
)
def test_custom_column_without_labels_refused(labels: list[str], says: str) -> None:
    with pytest.raises(UserError, match=f"E228.*{says}"):
        Custom().with_labels(labels)


def test_custom_collected_labels_same_ids_as_named(tmp_path: Path, study_file: Callable[[str], Path]) -> None:
    """A study whose labels are collected has the ids of the one that names them."""
    file = write_table(tmp_path / "mine.csv")
    path = study_file(
        f"name: x\ntask: {{name: custom, source: {file}, text_column: review, label_column: verdict}}\nmodel: tiny\n"
    )
    study = open_study(path, [], tmp_path)
    assert study.spec.task[0].labels == ("bad", "good")
    assert open_study(path, ["task.label_names=[bad, good]"], tmp_path).expansion.runs == study.expansion.runs


def test_custom_prompts_and_responses(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"prompt": "add 1 and 1", "answer": 0.00001}\n{"prompt": "add 1 and 2", "answer": "3"}\n')
    task = Custom(source=str(file), text_column="prompt", response_column="answer", judge="number")
    assert task.kind == "generation"
    assert task.labels == ()
    assert sources.read(task, sources.locate(task))["train"] == [
        RawRow("add 1 and 1", response="0.00001"),
        RawRow("add 1 and 2", response="3"),
    ]
    with pytest.raises(ValueError, match="response_column"):
        Custom(judge="number")


def test_custom_hub_data_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    features = Features({"body": Value("string"), "tone": ClassLabel(names=["sad", "glad"])})
    rows = Dataset.from_list([{"body": "so good", "tone": 1}, {"body": "so bad", "tone": 0}], features=features)
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: DatasetDict(all=rows))
    commit = "0123456789abcdef0123456789abcdef01234567"
    task = Custom(
        dataset="me/mine", revision=commit, train_split="all", test_split="", text_column="body", label_column="tone"
    )
    source = sources.locate(task)
    assert (source.kind, source.place) == ("hub", f"me/mine@{commit}")
    found = sources.with_row_labels(task, source)
    assert found.labels == ("glad", "sad")
    assert sources.read(found, source) == {"train": [RawRow("so good", 0), RawRow("so bad", 1)]}
    with pytest.raises(UserError, match=r"no split 'test'; it has all"):
        sources.read(found.model_copy(update={"test_split": "test"}), source)
    with pytest.raises(UserError, match="no commit is pinned"):
        sources.locate(Custom(dataset="me/mine", label_names=("a", "b")))
    with pytest.raises(ValueError, match="not from both"):
        Custom(dataset="me/mine", source="rows.csv")
