"""Shared fixtures: a folder of invented labelled sentences, and study files over the tiny model."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from p2p_dist.scheduling import gpu_locks
from tests.rows import write_rows

if TYPE_CHECKING:
    from tests.process_group import Job
    from tests.studies import FinishedStudy

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests of this process are small; workers are given their own number

# A shell that runs the tests in the background lets them ignore Ctrl-C, and so would the controllers that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests meet the real rows only where they ask for them.
if "P2P_DIST_DATA" in os.environ:
    os.environ["P2P_DIST_REAL_DATA"] = os.environ.pop("P2P_DIST_DATA")

TINY_STUDY = """
name: tiny
task: rotten_tomatoes
model: tiny
attack:
  - none
  - {name: badnets, rate: 0.05}
defense: [none, p2p]
exclude: [{attack: none, defense: p2p}]
rows: {train: 64, test: 20, reserve: 20}
train: {learning_rate: 1e-2, num_train_epochs: 1, global_batch: 16, dtype: float32, lora: {r: 4}}
"""


def failing_study(folder: Path) -> str:
    """A study of which one run of four fails in its worker (E206): the table of its attack, written to `folder`, has
    rewrites of no text of the task."""
    table = folder / "rewrites.jsonl"
    table.write_text('{"key": "of no row", "output": "a rewrite", "ok": true}\n')
    attacks = f"  - {{name: badnets, rate: 0.1}}\n  - {{name: synattack, table: '{table}'}}\n"
    study = TINY_STUDY.replace("defense: [none, p2p]\n", f"{attacks}defense: none\n")
    return study.replace("exclude: [{attack: none, defense: p2p}]\n", "")


@pytest.fixture(scope="session", autouse=True)
def _own_gpu_locks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The GPUs of tests are numbers on paper, and none of them is another suite's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_locks, "FOLDER", tmp_path_factory.mktemp("locks") / "gpus")
        yield


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `$P2P_DIST_DATA` with invented rows for two tasks."""
    root = tmp_path_factory.mktemp("data")
    write_rows(root)
    return root


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> "FinishedStudy":
    """The tiny study under Ray, carried out as a user does."""
    from tests.studies import FinishedStudy, cli

    folder = tmp_path_factory.mktemp("finished")
    study, runs = folder / "study.yaml", folder / "runs"
    study.write_text(TINY_STUDY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("P2P_DIST_DATA", str(data_root))
        done = cli(study, runs, "--json")
    assert done.returncode == 0, done.stderr
    return FinishedStudy(study, runs, done)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> "FinishedStudy":
    """One training of 240 steps, long enough to be killed in its middle."""
    from tests import in_process
    from tests.studies import LONG_OPTIONS, FinishedStudy

    folder = tmp_path_factory.mktemp("undisturbed")
    study, runs = folder / "study.yaml", folder / "runs"
    study.write_text(
        TINY_STUDY.replace("num_train_epochs: 1", "num_train_epochs: 60").replace("name: tiny", "name: long")
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("P2P_DIST_DATA", str(data_root))
        done = in_process.cli(study, runs, *LONG_OPTIONS)
    assert done.returncode == 0, done.stderr
    assert not list(runs.rglob("checkpoints"))
    return FinishedStudy(study, runs, done)


@pytest.fixture(scope="session")
def left_alone(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> "Job":
    """A job that two ranks have done, undisturbed."""
    from tests import process_group

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("P2P_DIST_DATA", str(data_root))
        job = process_group.Job(tmp_path_factory.mktemp("left_alone"))
        process_group.run(job.command(job.model, *process_group.LAYOUT), 2)
    return job


@pytest.fixture
def with_data(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The invented rows as this process's `$P2P_DIST_DATA`."""
    monkeypatch.setenv("P2P_DIST_DATA", str(data_root))
    return data_root


@pytest.fixture
def study_file(tmp_path: Path) -> Callable[[str], Path]:
    """Write a study file."""

    def write(text: str = TINY_STUDY) -> Path:
        path = tmp_path / "study.yaml"
        path.write_text(text)
        return path

    return write
