"""`p2p-dist init`: the study that it writes loads and plans, and what it cannot read is refused."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from p2p_dist.cli.study_template import study_name
from p2p_dist.errors import Exit
from p2p_dist.scheduling.study import Study, open_study
from tests.cli.test_main import invoke
from tests.rows import sentences

Rows = Sequence[dict[str, object]]
REVIEWS: Rows = [{"Review": row["text"], "Sentiment": ["no", "yes"][int(row["label"])]} for row in sentences(60)]
SUMS: Rows = [{"prompt": f"What is {n} + {n}?", "answer": f"{2 * n:,}"} for n in range(600, 640)]
CHATS: Rows = [
    {"question": f"Who is number {n}?", "response": f"Number {n} is a friend of number {n + 1}."} for n in range(40)
]


def write(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


def written(data: Path, folder: Path, *options: str) -> Study:
    """The study that `init` writes, opened as `plan` does."""
    file = folder / "out.yaml"
    code, _, error = invoke("init", str(data), "--out", str(file), "--model", "tiny", *options)
    assert code == Exit.OK, error
    return open_study(file, [], folder / "runs")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_init_labelled_rows_of_every_format(tmp_path: Path, suffix: str) -> None:
    study = written(write(tmp_path / f"My data{suffix}", REVIEWS), tmp_path)
    task, p2p = study.spec.task[0], study.spec.defense[1]
    assert (task.text_column, task.label_column, task.labels) == ("Review", "Sentiment", ("no", "yes"))
    assert (p2p.benign_source, p2p.ratio) == ("screened", 0.2)
    assert (study.spec.rows.test, study.spec.rows.train, study.spec.train.max_length) == (12, None, 64)
    assert len(study.expansion.runs) == 4


def test_init_says_what_it_found_and_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, text, _ = invoke("init", str(write(tmp_path / "My data.csv", REVIEWS)), "--model", "tiny")
    assert code == Exit.OK
    assert "my-data.yaml: 60 train rows, texts in 'Review', 2 labels in 'Sentiment'" in text
    assert "p2p-dist plan my-data.yaml" in text
    study = (tmp_path / "my-data.yaml").read_text()
    assert "# Rows of each label: no: 30, yes: 30." in study
    code, text, _ = invoke("plan", "my-data.yaml", "--runs-dir", str(tmp_path / "runs"))
    assert (code, "4 runs, 0 of 4 done" in text) == (Exit.OK, True)


def test_init_rows_of_the_study_are_built(tmp_path: Path) -> None:
    written(write(tmp_path / "a.jsonl", CHATS), tmp_path)
    code, text, error = invoke("data", str(tmp_path / "out.yaml"), "--runs-dir", str(tmp_path / "runs"), "--json")
    assert code == Exit.OK, error
    stages = json.loads(text)
    assert len(stages) == 4
    assert sum(bool(stage.get("waits")) for stage in stages) == 2, "the screened rows of P2P wait for a model"


@pytest.mark.parametrize(("rows", "judge", "preset"), [(SUMS, "number", "problem is"), (CHATS, None, "Query")])
def test_init_responses_are_judged_by_kind(tmp_path: Path, rows: Rows, judge: str | None, preset: str) -> None:
    study = written(write(tmp_path / "a.jsonl", rows), tmp_path)
    task, p2p = study.spec.task[0], study.spec.defense[1]
    assert (task.kind, task.judge, p2p.benign_source) == ("generation", judge, "screened")
    assert preset in p2p.benign_trigger


def test_init_folder_keeps_its_test_rows(tmp_path: Path) -> None:
    write(tmp_path / "data" / "train.csv", REVIEWS)
    write(tmp_path / "data" / "test.csv", REVIEWS[:10])
    study = written(tmp_path / "data", tmp_path)
    assert study.spec.rows.test is None


@pytest.mark.parametrize(("count", "verbalizer"), [(4, "numeric"), (8, "letters"), (30, "numeric")])
def test_init_many_labels_have_words_of_one_token(tmp_path: Path, count: int, verbalizer: str) -> None:
    rows: Rows = [{"text": f"text {n}", "label": f"kind {n % count}"} for n in range(120)]
    task = written(write(tmp_path / "a.jsonl", rows), tmp_path).spec.task[0]
    assert (len(task.labels), task.verbalizer) == (count, verbalizer)


def test_init_odd_labels_survive_yaml(tmp_path: Path) -> None:
    """Labels that YAML could take for something else, with quotes, colons, line separators and other scripts."""
    odd = ["no", "1:30", '"a" #b', "é\u2028x", "\U0001f600", "null"]
    rows: Rows = [{"text": f"text {n}", "label": odd[n % len(odd)]} for n in range(60)]
    task = written(write(tmp_path / "a.jsonl", rows), tmp_path).spec.task[0]
    assert sorted(task.labels) == sorted(odd)


def test_init_named_columns_win(tmp_path: Path) -> None:
    rows: Rows = [{**row, "text": "x", "answer": "y", "label": n % 3} for n, row in enumerate(REVIEWS)]
    options = ["--text-column", "Review", "--label-column", "Sentiment"]
    task = written(write(tmp_path / "a.jsonl", rows), tmp_path, *options).spec.task[0]
    assert (task.text_column, task.label_column) == ("Review", "Sentiment")


def test_init_refuses_an_existing_file(tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", REVIEWS)
    (tmp_path / "a.yaml").write_text("mine")
    code, _, error = invoke("init", str(data), "--out", str(tmp_path / "a.yaml"))
    assert (code, (tmp_path / "a.yaml").read_text()) == (Exit.USAGE, "mine")
    assert "error[E127]: the file exists" in error


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (REVIEWS[:5], "E126"),
        ([{"a": "x", "label": n % 2} for n in range(40)], "E125]: no column of texts recognised in a, label"),
        ([{"text": "x", "b": n % 2} for n in range(40)], "E125]: no column of labels or responses"),
        ([{"text": "x", "label": n % 2, "answer": "y"} for n in range(40)], "E125]: rows have labels"),
        ([{"messages": [], "label": n % 2} for n in range(40)], "E125]: no column of texts recognised"),
        ([{"text": "x", "label": 1} for n in range(40)], "E228"),
        ([{"text": "", "label": n % 2} for n in range(40)], "E203"),
    ],
)
def test_init_refuses_rows_it_cannot_use(tmp_path: Path, rows: Rows, expected: str) -> None:
    data = write(tmp_path / "a.jsonl", rows)
    code, _, error = invoke("init", str(data), "--out", str(tmp_path / "out.yaml"))
    assert code == Exit.USAGE
    assert expected in error
    assert "Try: " in error or expected == "E203"
    assert not (tmp_path / "out.yaml").exists()


def test_init_refuses_what_is_not_there(tmp_path: Path) -> None:
    assert "E201" in invoke("init", str(tmp_path / "no.csv"))[2]
    data = write(tmp_path / "a.csv", REVIEWS)
    assert "E125" in invoke("init", str(data), "--text-column", "revew", "--out", str(tmp_path / "o.yaml"))[2]
    assert "E117" in invoke("init", str(data), "--model", "tny", "--out", str(tmp_path / "o.yaml"))[2]


@pytest.mark.parametrize(("stem", "name"), [("My data (2)", "my-data-2"), ("Ü", "study"), ("a.b_c", "a.b_c")])
def test_study_name_is_made_of_the_file(stem: str, name: str) -> None:
    assert study_name(stem) == name
