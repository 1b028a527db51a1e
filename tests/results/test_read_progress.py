"""The quick reading of a study's progress says what the thorough one says."""

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from p2p_dist.report import status_view
from p2p_dist.results import lease, resolved
from p2p_dist.results.collect import Collected, read_study
from p2p_dist.results.progress import read_progress
from p2p_dist.results.rundir import RunDir
from tests.synthetic import make_study

RUNS = """
name: progress
task: rotten_tomatoes
model: random:qwen3-0.6b
attack: [none, {name: badnets, rate: 0.1}]
defense: [none, p2p]
seed: 0
rows: {train: 64, test: 20, reserve: 20}
train: {num_train_epochs: 1, global_batch: 16, dtype: float32, lora: {r: 4}}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> RunDir:
    return make_study(tmp_path_factory.mktemp("made"), data_root, RUNS)


@pytest.fixture
def folder(made: RunDir, tmp_path: Path) -> RunDir:
    """A copy of the finished study, to be changed."""
    return RunDir(Path(shutil.copytree(made.path, tmp_path / "progress")))


def last(folder: RunDir, kind: str) -> Path:
    """Folder of the last stage of a kind in the study's order."""
    stages = resolved.read_resolved(folder)["stages"]
    return folder.path / kind / [stage["id"] for stage in stages if stage["kind"] == kind][-1]


def edit_rate(folder: RunDir) -> None:
    """A number of a result is changed by hand."""
    result = last(folder, "eval") / "result.json"
    result.write_text(result.read_text().replace('"n": 20', '"n": 21', 1))


def put_folder_in_place_of_result(folder: RunDir) -> None:
    result = last(folder, "eval") / "result.json"
    result.unlink()
    result.mkdir()


def move_result(folder: RunDir) -> None:
    """The sealed result of another evaluation."""
    result = last(folder, "eval") / "result.json"
    other = next(path for path in sorted(folder.path.glob("eval/*/result.json")) if path != result)
    shutil.copy(other, result)


def link_marker(folder: RunDir) -> None:
    adapter = last(folder, "train") / "adapter"
    shutil.rmtree(adapter)
    adapter.symlink_to("/tmp")


def leave_conflict(folder: RunDir) -> None:
    (last(folder, "train") / "adapter.conflict-1").mkdir()
    (last(folder, "eval") / "result.json.conflict-1").write_text("{}")
    (last(folder, "data") / "manifest.json.damaged-0123abcd").write_text("{}")


def delete_results(folder: RunDir) -> None:
    """Results of evaluations that were never started, of which only the spec is left."""
    for path in folder.path.glob("eval/*/*"):
        if path.name != "spec.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def diverge(folder: RunDir) -> None:
    """A training that diverged in a cohort: a cost and no adapter, and the attempt stands with another one."""
    diverged, lead = last(folder, "train"), sorted(folder.path.glob("train/*"))
    lead.remove(diverged)
    shutil.rmtree(diverged / "adapter")
    shutil.rmtree(diverged / "attempts")
    attempt = max(lead[0].glob("attempts/*"))
    (attempt / "exit.json").write_text(json.dumps({"code": 1, "reason": "diverged"}))
    placement = json.loads((attempt / "placement.json").read_text())
    (attempt / "placement.json").write_text(json.dumps({**placement, "stages": [lead[0].name, diverged.name]}))


def start_training(folder: RunDir) -> None:
    """A training that runs: its attempt has no end yet."""
    training = last(folder, "train")
    shutil.rmtree(training / "adapter")
    (max(training.glob("attempts/*")) / "exit.json").unlink()


def remove_stage(folder: RunDir) -> None:
    shutil.rmtree(last(folder, "eval"))


def nothing(folder: RunDir) -> None:
    """A finished study."""


CHANGES = (
    *(
        nothing,
        edit_rate,
        put_folder_in_place_of_result,
        move_result,
        link_marker,
        leave_conflict,
        delete_results,
        diverge,
        start_training,
    ),
    remove_stage,
)


@pytest.mark.parametrize("alive", [False, True])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_progress_is_that_of_the_thorough_reading(
    change: Callable[[RunDir], None], alive: bool, folder: RunDir
) -> None:
    change(folder)
    with lease.hold(folder.lease) if alive else nullcontext():
        quick, owners = read_progress(folder)
    thorough = read_study(folder, alive)
    assert (owners is not None) == alive
    assert status_view.text(quick, None) == status_view.text(without_order(quick, thorough), None)


def test_progress_names_owners_of_single_jobs(folder: RunDir) -> None:
    """Controllers that share a study hold leases on its jobs and none on the study."""
    start_training(folder)
    with lease.hold(last(folder, "train") / "lease"):
        quick, owners = read_progress(folder)
        assert owners == ", ".join(lease.job_owners(folder.path)) != ""
    assert [run.status for run in quick.runs].count("running") == 1


def without_order(quick: Collected, thorough: Collected) -> Collected:
    """The thorough reading with its problems in the order of the quick one; they must be the same."""
    assert sorted(map(str, quick.problems)) == sorted(map(str, thorough.problems))
    thorough.problems[:] = quick.problems
    return thorough


def test_file_of_50000_runs_is_still_read(made: RunDir) -> None:
    """A study's resolved file grows with its runs."""
    runs = len(resolved.read_resolved(made)["runs"])
    assert 50_000 * made.resolved.stat().st_size / runs < resolved.LARGEST
