"""One run folder, one study: further runs are welcome, other settings are asked for, nothing is lost in silence."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import p2p_dist
from p2p_dist.config import yaml_strict
from p2p_dist.config.load import load_study, read_study
from p2p_dist.errors import Exit, UserError
from p2p_dist.planning.study_changes import changed_keys
from p2p_dist.results import lease
from p2p_dist.results.confined import LARGEST_JSON
from p2p_dist.results.rundir import RunDir
from p2p_dist.scheduling.other_settings import refuse_other_settings
from p2p_dist.scheduling.prepare import settle, write_down
from p2p_dist.scheduling.study import configs_dir, open_study
from tests.cli.test_main import invoke
from tests.conftest import TINY_STUDY
from tests.synthetic import make_study

Open = Callable[..., str]
PACKAGE = Path(p2p_dist.__file__).parent


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """A finished study with three runs: its file and its run folder."""
    root = tmp_path_factory.mktemp("finished")
    make_study(root, data_root, TINY_STUDY)
    return root


@pytest.fixture
def finished(made: Path, tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A copy of the finished study."""
    monkeypatch.setenv("P2P_DIST_DATA", str(data_root))
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return RunDir(tmp_path / "runs" / "tiny")


@pytest.fixture
def note_on(finished: RunDir) -> Open:
    """Open the study again with overrides, and return the note on its changes."""
    file = finished.path.parents[1] / "study.yaml"

    def note_on(*overrides: str, replace: bool = False, shared: bool = False) -> str:
        return refuse_other_settings(open_study(file, overrides, finished.path.parent), replace, shared)

    return note_on


@pytest.mark.parametrize(
    ("overrides", "note"),
    [
        ([], ""),
        (["description=other words"], ""),
        (["seed=[0, 1]"], "3 runs are new in this folder: seed: not set -> [0, 1]"),
        (["defense=[none, p2p, onion]"], "2 runs are new in this folder: defense: [none, p2p] -> [none, p2p, onion]"),
    ],
)
def test_same_settings_and_further_runs_are_accepted(overrides: list[str], note: str, note_on: Open) -> None:
    assert note_on(*overrides) == note


@pytest.mark.parametrize(
    ("override", "change", "removed"),
    [
        ("train.learning_rate=2e-2", "train.learning_rate: 0.01 -> 0.02;", 3),
        ("train.lora.alpha=8.0", "train.lora.alpha: not set -> 8.0;", 3),
        ("attack=[none, {name: badnets, rate: 0.1}]", "attack.1.rate: 0.05 -> 0.1;", 2),
        ("attack=none", "attack: [none, {name: badnets, rate: 0.05}] -> [none];", 2),
        ("suites=[cue_grid]", "suites: not set -> [cue_grid];", 3),
    ],
)
def test_other_settings_are_asked_for(
    override: str, change: str, removed: int, note_on: Open, finished: RunDir
) -> None:
    with pytest.raises(UserError) as caught:
        note_on(override)
    problem = caught.value.problems[0]
    assert (problem.code, caught.value.exit_code) == ("E407", Exit.USAGE)
    assert change in problem.what
    assert f"{removed} of the 3 runs" in problem.what
    assert problem.where == str(finished.study)
    assert "--replace" in problem.fix
    assert change in note_on(override, replace=True)


def test_other_rows_are_asked_for(note_on: Open, finished: RunDir, tmp_path: Path, data_root: Path) -> None:
    """The file says the same, and the rows do not."""
    rows = tmp_path / "other" / "rotten_tomatoes"
    rows.mkdir(parents=True)
    for split in ("train", "test"):
        text = (data_root / "rotten_tomatoes" / f"{split}.jsonl").read_text()
        (rows / f"{split}.jsonl").write_text(text + '{"text": "one more", "label": 0}\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("P2P_DIST_DATA", str(tmp_path / "other"))
        with pytest.raises(UserError, match=r"data\.source: [0-9a-f]{12} -> [0-9a-f]{12};"):
            note_on()


def test_unfinished_folder_takes_other_settings(tmp_path: Path, data_root: Path, monkeypatch) -> None:
    monkeypatch.setenv("P2P_DIST_DATA", str(data_root))
    folder = make_study(tmp_path, data_root, TINY_STUDY, skip=["train", "eval"])
    study = open_study(tmp_path / "study.yaml", ["train.learning_rate=2e-2"], folder.path.parent)
    for attempts in folder.path.glob("*/*/attempts"):
        pytest.fail(f"{attempts} was begun")
    assert "held other settings" in refuse_other_settings(study)


def test_sharers_with_other_settings_are_refused(note_on: Open, finished: RunDir) -> None:
    """Not even further runs, and not even with --replace: the other controllers plan the runs that they began with."""
    job = next(finished.path.glob("train/*"))
    with lease.hold(job / "lease"):
        assert note_on(shared=True) == ""
        for override in ("seed=[0, 1]", "train.learning_rate=2e-2"):
            with pytest.raises(UserError, match="works on tiny with other settings"):
                note_on(override, replace=True, shared=True)
    with pytest.raises(UserError, match="a controller that has just begun works on tiny"):
        note_on("seed=[0, 1]", shared=True)
    os.utime(finished.resolved, (0, 0))
    assert note_on("seed=[0, 1]", shared=True)


def test_unreadable_study_is_asked_for(note_on: Open, finished: RunDir) -> None:
    finished.resolved.write_text("{}")
    with pytest.raises(UserError, match="E408"):
        note_on()
    assert "written again" in note_on(replace=True)


def test_run_refuses_before_it_changes_anything(finished: RunDir, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in (finished.study, finished.resolved, finished.provenance)}
    arguments = [
        "run",
        str(tmp_path / "study.yaml"),
        "train.learning_rate=2e-2",
        "--runs-dir",
        str(finished.path.parent),
    ]
    code, _, error = invoke(*arguments, "--backend", "local")
    assert (code, "E407" in error) == (Exit.USAGE, True)
    assert {path: path.read_bytes() for path in before} == before


def test_plan_says_that_the_folder_holds_other_settings(finished: RunDir, tmp_path: Path) -> None:
    arguments = ["plan", str(tmp_path / "study.yaml"), "--runs-dir", str(finished.path.parent)]
    code, answer, _ = invoke(*arguments, "train.learning_rate=2e-2")
    assert (code, "train.learning_rate: 0.01 -> 0.02" in answer) == (Exit.OK, True)
    assert "other settings" not in invoke(*arguments)[1]


def test_study_file_of_a_folder_has_its_overrides(finished: RunDir, tmp_path: Path) -> None:
    """The results are of the settings in `study.yaml`, whatever the command line said."""
    assert finished.study.read_text() == TINY_STUDY, "the user's own file, with its comments"
    overrides = ["train.learning_rate=2e-2", "seed=[3]", "attack=[{name: cba, first: 'no'}]", "exclude=[]"]
    study = open_study(tmp_path / "study.yaml", overrides, tmp_path / "other")
    (tmp_path / "study.yaml").write_text("edited: meanwhile\n")
    write_down(study)
    assert study.folder.study.read_text().startswith("# ")
    again = open_study(study.folder.study, [], tmp_path / "other")
    assert again.expansion.graph.stages.keys() == study.expansion.graph.stages.keys()
    assert again.spec == study.spec


@pytest.mark.parametrize("value", ["no", "1e5", "0x1F", "1:30", "a b", "ü \\ \" ' #", "null", "", "line\nbreak", "~"])
def test_written_overrides_read_as_the_same_text(value: str, tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(TINY_STUDY)
    override = f"description={json.dumps(value)}"
    study = read_study(file, [override])
    (tmp_path / "again.yaml").write_bytes(study.text)
    assert yaml_strict.read(tmp_path / "again.yaml").data == study.data
    assert load_study(tmp_path / "again.yaml", [], configs_dir() / "models").description == value


def test_settle_refuses_a_smaller_grid_without_replace(finished: RunDir, tmp_path: Path) -> None:
    study = open_study(tmp_path / "study.yaml", ["defense=none"], finished.path.parent)
    with pytest.raises(UserError, match="E407"):
        settle(study, replace=False)
    settle(study, replace=True)
    assert len(json.loads(finished.resolved.read_text())["runs"]) == 2


def test_changed_keys_name_path_and_values() -> None:
    old = {"name": "a", "attack": "none", "train": {"lora": {"r": 4}, "dtype": "auto"}, "seed": [0, 1]}
    new = {"name": "b", "attack": ["none"], "train": {"lora": {"r": 8}}, "seed": [0, 1], "rows": {"train": 5}}
    assert list(changed_keys(old, new)) == [
        "train.lora.r: 4 -> 8",
        "train.dtype: auto -> not set",
        "rows: not set -> {train: 5}",
    ]


def test_study_of_a_hundred_thousand_runs_is_read(finished: RunDir, note_on: Open) -> None:
    """Its file is larger than any other that is read: here it is filled up with spaces."""
    with finished.resolved.open("ab") as file:
        file.write(b" " * LARGEST_JSON)
    assert note_on() == ""
    study = open_study(finished.path.parents[1] / "study.yaml", [], finished.path.parent)
    settle(study, replace=False)
    assert finished.resolved.stat().st_size < LARGEST_JSON


def test_resolved_json_is_read_in_one_place() -> None:
    """Which knows how large it may be."""
    readers = [path for path in PACKAGE.rglob("*.py") if re.search(r"read\w*\([^()\n]*\.resolved\b", path.read_text())]
    assert readers == [PACKAGE / "results" / "resolved.py"]
