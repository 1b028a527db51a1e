"""Whatever happens to any file of a study, everything that reads it goes on, and says which file is not what it should
be."""

import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from p2p_dist.config.graph import Graph
from p2p_dist.errors import Problem, UserError
from p2p_dist.report import page, status_view
from p2p_dist.report.study_data import StudyData
from p2p_dist.results import collect, index, mirror, records, resolved, resultfile, timings
from p2p_dist.results.collect import read_study
from p2p_dist.results.rundir import RunDir
from tests.results.test_index import SMALL
from tests.results.test_mirror import Lines
from tests.synthetic import make_study

ONE = SMALL.replace("seed: [0, 1]", "seed: 0").replace("  - {name: addsent, rate: 0.05}\n", "")
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "half of it": lambda content: content[: len(content) // 2],
    "noise": lambda content: b"\x00\xff" * 20 + b"\n",
    "another object": lambda content: b'{"stages": 7, "seconds": "x", "code": [], "launches": {}, "id": 3}\n',
}
NAMED = {
    "provenance.json": ("E508 provenance.json",),
    "cost.json": ("E514 cost.json",),
    "placement.json": ("E514 placement.json",),
    "exit.json": ("E514 exit.json",),
    "result.json": ("E502 result.json",),
    "metrics.jsonl": ("E516 metrics.jsonl",),
    "clean.jsonl": ("E519 clean.jsonl",),
    "triggered.jsonl": ("E519 triggered.jsonl",),
    "clean_nobt.jsonl": ("E519 clean_nobt.jsonl",),
    "triggered_nobt.jsonl": ("E519 triggered_nobt.jsonl",),
    "test_clean.jsonl": ("E209 test_clean.jsonl",),
    "test_triggered.jsonl": ("E209 test_triggered.jsonl",),
    "manifest.json": ("E519 manifest.json",),
    "checksums.json": ("E521 checksums.json",),
}
"""What names each file when it is damaged; of the others nothing is read."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> RunDir:
    return make_study(tmp_path_factory.mktemp("made"), data_root, ONE)


def read_everything(folder: RunDir, place: Path) -> list[str]:
    """Status, index, mirror and every part of the report; returns where something is wrong, as the report says it."""
    found = read_study(folder, alive=True)
    assert status_view.text(found, None)
    index.refresh(folder)
    mirror.copy(folder, found, Lines, place)
    evidence = StudyData(folder, found, {})
    page.sections(evidence)
    evidence.last_launch()
    return [f"{problem.code} {Path(problem.where).name}" for problem in found.problems]


def victims(folder: RunDir) -> dict[str, Path]:
    """One file of each name: of the defended run, of the rows that examples are taken from, or of any stage."""
    found = read_study(folder, alive=False)
    attacked, defended = (
        next(run for run in found.runs if (run.cell["attack"], run.cell["defense"]) == ("badnets", name))
        for name in ("none", "p2p")
    )
    rows = found.results[attacked.ids["eval"] or ""].stage.reads["rows"]
    stages = [folder.find(id_).path for id_ in (defended.ids["train"], defended.ids["eval"], rows) if id_]
    files = [path for path in folder.path.rglob("*") if path.is_file()]
    files.sort(
        key=lambda path: next((at for at, stage in enumerate(stages) if path.is_relative_to(stage)), len(stages))
    )
    return {path.name: path for path in reversed(files)}


def damage_and_read(folder: RunDir, path: Path, damage: str, place: Path) -> None:
    """Damage one file, read everything, assert that the file is named, and mend it."""
    before = path.read_bytes()
    path.write_bytes(DAMAGES[damage](before))
    if path == folder.resolved:
        with pytest.raises(UserError, match="E508"):
            read_everything(folder, place)
    else:
        problems = read_everything(folder, place)
        under_way = path.name == "metrics.jsonl" and damage == "half of it"
        expected = () if under_way else NAMED.get(path.name, ())
        assert set(expected) & set(problems) or not expected, (path.name, problems)
        assert expected or not problems, (path.name, problems)
    path.write_bytes(before)


def test_any_file_may_be_damaged(made: RunDir, tmp_path: Path) -> None:
    """Every file in one of three ways; each way meets every third file."""
    folder = RunDir(shutil.copytree(made.path, tmp_path / "study"))
    assert read_everything(folder, tmp_path / "m") == []
    for path, damage in zip(victims(folder).values(), itertools.cycle(DAMAGES), strict=False):
        damage_and_read(folder, path, damage, tmp_path / "m")
    folder.index.unlink(missing_ok=True)
    assert read_everything(folder, tmp_path / "m") == []


@pytest.mark.slow("a minute; every file in one of the ways is the fast witness")
@pytest.mark.parametrize("damage", DAMAGES)
def test_any_file_may_be_damaged_in_any_way(made: RunDir, tmp_path: Path, damage: str) -> None:
    folder = RunDir(shutil.copytree(made.path, tmp_path / "study"))
    for path in victims(folder).values():
        damage_and_read(folder, path, damage, tmp_path / "m")


def test_predictions_that_contradict_rates_are_named(made: RunDir, tmp_path: Path) -> None:
    """Predictions that do not give the rates are named and not tested."""
    folder = RunDir(shutil.copytree(made.path, tmp_path / "study"))
    path = next(iter(sorted(folder.path.glob("eval/*/predictions/triggered.jsonl"))))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["scores"] = row["scores"][::-1]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path.parent.with_name("checksums.json").unlink()  # as in a folder of an older version
    said = read_everything(folder, tmp_path / "m")
    assert set(said) == {"E515 predictions"}


def test_damaged_cost_file_keeps_its_result_and_is_named(made: RunDir, tmp_path: Path) -> None:
    """A damaged cost keeps its result in the index and is named until it is gone."""
    folder = RunDir(shutil.copytree(made.path, tmp_path / "study"))
    before = index.refresh(folder)
    cost = next(iter(sorted(folder.path.glob("eval/*/cost.json"))))
    cost.write_text("{")
    (cost.parent / "touched").touch()  # a file that is replaced, as ours are, changes its folder's time too
    for _ in range(2):
        found = index.refresh(folder)
        assert [problem.code for problem in found.problems] == ["E514"]
        assert len(found.table) == len(before.table)
        assert found.table.filter([id_ == cost.parent.name for id_ in found.table["id"].to_pylist()])[
            "seconds"
        ].to_pylist() == [None]
    cost.unlink()
    (cost.parent / "touched").unlink()
    assert index.refresh(folder).problems == []


def test_half_a_line_of_metrics_is_no_metrics(tmp_path: Path) -> None:
    stage = RunDir(tmp_path).at("train", "a")
    stage.path.mkdir(parents=True)
    stage.append_metrics({"step": 1, "loss": 0.5})
    with stage.metrics.open("a") as file:
        file.write('{"step": 2, "lo{"step": 3, "loss": 0.1}\n["step"]\n{"step": 4')
    assert stage.all_metrics() == [{"step": 1, "loss": 0.5}]
    assert stage.last_metrics() == {"step": 1, "loss": 0.5}


@pytest.mark.parametrize(
    "content", ["", "[1]", "null", "{}", '{"seconds": "1"}', '{"seconds": NaN}', '{"seconds": 1, "tokens": 0.5}']
)
def test_what_is_no_cost_is_named(tmp_path: Path, content: str) -> None:
    problems: list[Problem] = []
    (tmp_path / "cost.json").write_text(content)
    assert records.read(tmp_path / "cost.json", records.Cost, problems) == {}
    assert [problem.code for problem in problems] == ["E514"]


def test_what_is_not_there_is_no_problem(tmp_path: Path) -> None:
    problems: list[Problem] = []
    assert records.read(tmp_path / "cost.json", records.Cost, problems) == {}
    assert problems == []


@pytest.mark.parametrize("kind", ["folder", "fifo", "link"])
def test_result_that_is_no_file_is_damage(made: RunDir, tmp_path: Path, kind: str) -> None:
    """A folder under the name of a result once counted as done."""
    folder = RunDir(shutil.copytree(made.path, tmp_path / "study"))
    result = next(iter(sorted(folder.path.glob("eval/*/result.json"))))
    result.rename(tmp_path / "elsewhere.json")
    if kind == "folder":
        result.mkdir()
    elif kind == "fifo":
        os.mkfifo(result)
    else:
        result.symlink_to(tmp_path / "elsewhere.json")
    stage = folder.at("eval", result.parent.name)
    assert not stage.is_done()
    found = read_study(folder, alive=False)
    assert "E502" in {problem.code for problem in found.problems}
    assert sum(run.status == "damaged" for run in found.runs) >= 1
    assert [each.path for each in collect.doubtful(folder)] == [stage.path]
    assert resultfile.set_aside(stage) is not None
    assert not result.is_symlink()
    assert not result.exists()


@pytest.mark.parametrize(
    "edit",
    [
        lambda study: study["stages"][0]["spec"].update(seed=77),
        lambda study: study["stages"][0].update(id="../../../tmp"),
        lambda study: study["stages"][0].update(kind="../.."),
        lambda study: study["stages"].pop(0),
        lambda study: study["runs"][0].update(eval="0" * 12),
        lambda study: study["runs"][0].update(eval=study["runs"][0]["train"]),
        lambda study: study["runs"][0]["cell"].pop("defense"),
        lambda study: study["runs"][0]["cell"].update(seed="x"),
    ],
)
def test_inconsistent_resolved_study_is_named(made: RunDir, tmp_path: Path, edit: Callable[[Any], object]) -> None:
    folder = RunDir(tmp_path / "study")
    study = json.loads(made.resolved.read_text())
    edit(study)
    folder.path.mkdir()
    folder.resolved.write_text(json.dumps(study))
    with pytest.raises(UserError, match=r"E508.*resolved\.json"):
        read_study(folder, alive=False)
    assert timings.read(tmp_path, ()).unread, "plans of other studies name it and continue"


@pytest.mark.parametrize(
    "edit",
    [
        lambda study: study.update(note=float("nan")),
        lambda study: study["stages"][0].update(id="/tmp/elsewhere"),
        lambda study: study["stages"][0].update(id="../../../tmp"),
        lambda study: study["stages"].pop(0),
        lambda study: study["runs"][0].update(eval=study["runs"][0]["train"]),
        lambda study: study.pop("name"),
    ],
)
def test_outline_refuses_what_the_whole_file_is_refused_for(
    made: RunDir, tmp_path: Path, edit: Callable[[Any], object]
) -> None:
    folder = RunDir(tmp_path / "study")
    study = json.loads(made.resolved.read_text())
    edit(study)
    folder.path.mkdir()
    folder.resolved.write_text(json.dumps(study))
    for read in (resolved.read_outline, resolved.read_resolved):
        with pytest.raises(UserError, match=r"E508.*resolved\.json"):
            read(folder)


def test_outline_reads_what_the_whole_file_is_read_for(made: RunDir, tmp_path: Path) -> None:
    """Half of a surrogate pair, and the words NaN and Infinity in a text."""
    folder = RunDir(tmp_path / "study")
    study = json.loads(made.resolved.read_text()) | {"description": "\ud800 NaN Infinity"}
    folder.path.mkdir()
    folder.resolved.write_text(json.dumps(study))
    assert resolved.read_outline(folder).description == resolved.read_resolved(folder)["description"]


@pytest.mark.parametrize("name", ["cost.json", "resolved.json"])
@pytest.mark.parametrize("content", [b"\xff", b"[]", b"[" * 100_000, b'{"seconds": 1e999}', b"null"])
def test_damaged_file_of_another_study_is_named(made: RunDir, tmp_path: Path, name: str, content: bytes) -> None:
    """A damaged file of one study never stops another one."""
    folder = RunDir(shutil.copytree(made.path, tmp_path / "runs" / "study"))
    models = {stage.model for stage in folder.stages_besides(Graph(), []).values()}
    assert timings.read(tmp_path / "runs", models).unread == []
    paths = list(folder.path.glob(f"train/*/{name}")) or [folder.path / name]
    paths[0].write_bytes(content)
    (unread,) = timings.read(tmp_path / "runs", models).unread
    assert unread.startswith(str(paths[0]))


@pytest.mark.parametrize("line", ['{"loss": 1.0}', '{"step": null}', '{"step": "1"}', '{"step": 1e400}', "[", "\xff"])
def test_bad_line_of_metrics_is_left_out(tmp_path: Path, line: str) -> None:
    stage = RunDir(tmp_path).at("train", "a")
    stage.append_metrics({"step": 1, "loss": 0.5})
    with stage.metrics.open("a", encoding="latin-1") as file:
        file.write(f"{line}\n")
    stage.append_metrics({"step": 2, "loss": 0.25})
    assert [metrics["step"] for metrics in stage.all_metrics()] == [1, 2]
    assert (problem := stage.metrics_problem()) is not None
    assert (problem.code, problem.where) == ("E516", str(stage.metrics))
