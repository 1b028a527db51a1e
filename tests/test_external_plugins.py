"""Plug-ins outside the package: found, checked, refused, identified by their code, and seen by workers."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from p2p_dist import external_plugins, registry
from p2p_dist.errors import UserError
from p2p_dist.scheduling.process_groups import PASSED_ON
from p2p_dist.scheduling.study import Study, open_study
from p2p_dist.scheduling.submit_ray import packed_plugins
from p2p_dist.scheduling.submit_slurm import EXPORTED
from tests.cli.test_main import invoke
from tests.rows import sentences

EXAMPLES = Path(__file__).parents[1] / "examples" / "plugins"
STUDY = """
name: own
task: {name: tickets, source: SOURCE}
model: tiny
attack: {name: shouting, rate: 0.1, target_label: 1}
defense: unseen_words
rows: {train: 120, test: 30, reserve: 30}
train: {num_train_epochs: 1, dtype: float32, lora: {r: 4}}
"""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the example plug-ins that a test may change, named by the environment."""
    folder = Path(shutil.copytree(EXAMPLES, tmp_path / "plugins", ignore=shutil.ignore_patterns("__pycache__")))
    monkeypatch.setenv(external_plugins.VARIABLE, str(folder))
    return folder


@pytest.fixture
def own_study(tmp_path: Path) -> Path:
    """A study of the example task, attack and defense, with rows in three classes."""
    rows = tmp_path / "tickets"
    rows.mkdir()
    for split, count in (("train", 240), ("test", 60)):
        lines = [{**row, "label": number % 3} for number, row in enumerate(sentences(count, seed=count))]
        (rows / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = tmp_path / "own.yaml"
    path.write_text(STUDY.replace("SOURCE", str(rows)))
    return path


def opened(path: Path) -> Study:
    return open_study(path, [], path.parent / "runs")


def ids(path: Path) -> dict[str, str]:
    """Stage ids by kind and step."""
    stages = opened(path).expansion.graph.stages.values()
    return {f"{stage.kind} {stage.to_json()['spec'].get('step', '')}".strip(): stage.id for stage in stages}


def refusal(kind: str, name: str) -> str:
    with pytest.raises(UserError) as caught:
        registry.load(kind, name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "name"), [("attacks", "shouting"), ("defenses", "unseen_words"), ("tasks", "tickets")]
)
def test_example_is_listed_with_its_options(plugins: Path, kind: str, name: str) -> None:
    assert name in registry.names(kind)
    assert registry.name_of(registry.load(kind, name)()) == name
    assert name in invoke("list", kind)[1]
    assert registry.code_of(registry.load(kind, name)()).keys() == {registry.CODE}


def test_example_rows_are_built_by_a_worker(own_study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`run --rows-only` starts a process for each data stage, which finds the plug-ins by the environment."""
    monkeypatch.delenv(external_plugins.VARIABLE, raising=False)
    arguments = [str(own_study), "--plugins", str(EXAMPLES), "--runs-dir", str(own_study.parent / "runs")]
    command = [sys.executable, "-m", "p2p_dist", "run", *arguments, "--rows-only", "--backend", "local", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    attacked, defended = json.loads(done.stdout)
    assert attacked["counts"]["train"]["poisoned"] == {"1": 12}
    assert defended["counts"]["kept"] <= 120


def test_changed_code_changes_ids_of_its_stages(plugins: Path, own_study: Path) -> None:
    """A changed attack makes new rows; a changed defense leaves the attacked rows as they are."""
    before = ids(own_study)
    defense = plugins / "defenses" / "unseen_words.py"
    defense.write_text(defense.read_text().replace("min_rows: int = 5", "min_rows: int = 5  # rows"))
    between = ids(own_study)
    assert {step for step in before if before[step] != between[step]} == {"data defend", "train", "eval"}
    attack = plugins / "attacks" / "shouting.py"
    attack.write_text(attack.read_text() + "\n")
    assert all(between[step] != id_ for step, id_ in ids(own_study).items())


def test_place_of_the_folder_is_not_identity(plugins: Path, own_study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ids(own_study)
    monkeypatch.setenv(external_plugins.VARIABLE, str(EXAMPLES))
    assert ids(own_study) == before


def test_worker_refuses_code_that_changed(plugins: Path) -> None:
    """The digest of the plan is held against the file that a worker has."""
    plugin = registry.load("attacks", "shouting")
    code = registry.code_of(plugin())[registry.CODE]
    assert registry.load("attacks", "shouting", code) is plugin
    attack = plugins / "attacks" / "shouting.py"
    attack.write_text(attack.read_text() + "\n")
    with pytest.raises(UserError, match=rf"E208.*changed: expected {code}"):
        registry.load("attacks", "shouting", code)
    attack.unlink()
    with pytest.raises(UserError, match=r"E117.*missing here.*P2P_DIST_PLUGINS"):
        registry.load("attacks", "shouting", code)


def test_changed_file_of_equal_size_is_read_again(plugins: Path) -> None:
    """Compiled files are told apart by seconds and size; they are not used here."""
    attack = plugins / "attacks" / "shouting.py"
    times = attack.stat()
    assert registry.load("attacks", "shouting")().min_letters == 4
    attack.write_text(attack.read_text().replace("int = 4", "int = 6"))
    os.utime(attack, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert registry.load("attacks", "shouting")().min_letters == 6


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1\n", ("E123", "no plug-in", "no subclass of Attack")),
        ("import nowhere_at_all\n", ("E123", "cannot be imported", "ModuleNotFoundError")),
        ("class A(:\n", ("E123", "cannot be imported", "SyntaxError")),
        (
            "from p2p_dist.data.attack import DirtyLabelAttack\nclass A(DirtyLabelAttack):\n    '''No trigger.'''\n",
            ("E123", "lacks the method trigger", "Try: define trigger in class A"),
        ),
        (
            "from p2p_dist.data.attack import Attack\nclass A(Attack): x: int = 1\nclass B(Attack): x: int = 2\n",
            ("E123", "defines 2 subclasses of Attack"),
        ),
    ],
)
def test_what_is_no_attack_is_told_in_one_line(plugins: Path, text: str, expected: tuple[str, ...]) -> None:
    (plugins / "attacks" / "broken.py").write_text(text)
    message = refusal("attacks", "broken")
    assert all(part in message for part in (*expected, "broken.py")), message


def test_task_without_licence_is_told_in_one_line(plugins: Path) -> None:
    text = "from p2p_dist.data.classification import ClassificationTask\nclass T(ClassificationTask):\n    '''T.'''\n"
    (plugins / "tasks" / "bare.py").write_text(text)
    assert "lacks the class attribute licence" in refusal("tasks", "bare")


def test_name_of_a_shipped_plugin_is_refused(plugins: Path) -> None:
    shutil.copy(plugins / "attacks" / "shouting.py", plugins / "attacks" / "badnets.py")
    with pytest.raises(UserError, match=r"E122.*'badnets' is shipped.*Try: rename"):
        registry.names("attacks")


def test_name_of_another_external_plugin_is_refused(plugins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(external_plugins.VARIABLE, f"{plugins}{os.pathsep}{EXAMPLES}")
    assert "E122" in refusal("tasks", "tickets")


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_folder_without_plugins_is_refused(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(external_plugins.VARIABLE, str(tmp_path / folder))
    assert "E124" in refusal("attacks", "shouting")


def test_entry_point_is_found_and_identified_by_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package as pip leaves it: modules, and a .dist-info with entry points."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("")
    shutil.copy(EXAMPLES / "attacks" / "shouting.py", tmp_path / "mine" / "loud.py")
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[p2p_dist.attacks]\nloud = mine.loud\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    external_plugins._entry_points.cache_clear()
    try:
        loud = registry.load("attacks", "loud")()
        assert registry.name_of(loud) == "loud"
        before = registry.code_of(loud)
        (tmp_path / "mine" / "helper.py").write_text("x = 1\n")
        assert registry.code_of(loud) != before
    finally:
        external_plugins._entry_points.cache_clear()


def test_every_kind_of_worker_is_given_the_plugins(plugins: Path) -> None:
    """Slurm and Ray hand the variable on; a Ray job that is submitted carries the files."""
    assert external_plugins.VARIABLE in PASSED_ON
    assert external_plugins.VARIABLE in EXPORTED
    names = sorted(map(str, packed_plugins()))
    assert names == [
        "plugins/0/attacks/shouting.py",
        "plugins/0/defenses/unseen_words.py",
        "plugins/0/tasks/tickets.py",
    ]


def test_shipped_plugins_have_no_code_in_their_identity() -> None:
    assert registry.code_of(registry.load("attacks", "badnets")()) == {}
