"""Shared fixtures: a folder of invented labelled sentences, and study files over the tiny model."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

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


def sentences(count: int, seed: int = 0) -> list[dict[str, str | int]]:
    """Rows of invented text whose label can be read off two of its words."""
    random = Random(seed)
    words = {0: ["bad", "dull", "poor", "awful", "bland", "cold"], 1: ["good", "fine", "lovely", "warm", "superb", "fresh"]}
    filler = ["the", "film", "is", "a", "story", "of", "people", "and", "places", "with", "music", "by", "night"]
    rows: list[dict[str, str | int]] = []
    for at in range(count):
        label = at % 2
        text = random.choices(filler, k=7) + random.choices(words[label], k=2)
        random.shuffle(text)
        rows.append({"text": " ".join([*text, str(at)]), "label": label})
    return rows


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `$P2P_DIST_DATA` with invented rows for two tasks."""
    root = tmp_path_factory.mktemp("data")
    for task in ("rotten_tomatoes", "sst2"):
        for split, count, seed in (("train", 240, 1), ("test", 60, 2)):
            path = root / task / f"{split}.jsonl"
            path.parent.mkdir(exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in sentences(count, seed)))
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
