"""Shared fixtures: a folder of invented labelled sentences, and study files over the tiny model."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rows import write_rows

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests of this process are small; workers are given their own number

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
    """A study of which one run of three fails in its worker (E262): its table, written to `folder`, has rewrites of no
    text of the task."""
    table = folder / "rewrites.jsonl"
    table.write_text('{"key": "of no row", "output": "a rewrite", "ok": true}\n')
    text = TINY_STUDY.replace("[none, p2p]", f"[none, {{name: back_translation, table: '{table}'}}]")
    return text.replace("defense: p2p}", "defense: back_translation}")


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `$P2P_DIST_DATA` with invented rows for two tasks."""
    root = tmp_path_factory.mktemp("data")
    write_rows(root)
    return root


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
