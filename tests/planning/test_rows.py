"""Numbers of rows that the times of a plan assume."""

from pathlib import Path

import pytest

from p2p_dist.config.expand import expand
from p2p_dist.config.graph import Graph, Stage
from p2p_dist.config.load import load_study
from p2p_dist.data.sources import Source, locate
from p2p_dist.data.tasks.sst2 import Sst2
from p2p_dist.planning.cluster import ClusterSpec
from p2p_dist.planning.durations import TEST_ROWS, TRAIN_ROWS, Rates
from tests.conftest import TINY_STUDY

MODELS = Path(__file__).parents[2] / "configs" / "models"


@pytest.fixture
def unlimited(tmp_path: Path) -> Graph:
    """Graph of a study that takes all rows of its task."""
    file = tmp_path / "study.yaml"
    file.write_text(TINY_STUDY)
    spec = load_study(file, ["rows={train: null, test: null}", "attack=none", "defense=none"], MODELS)
    return expand(spec, [Source("files", "/rows", "0" * 12)], {}).graph


def training(graph: Graph) -> Stage:
    (stage,) = (stage for stage in graph.stages.values() if stage.kind == "train")
    return stage


@pytest.mark.parametrize(
    ("lines", "train", "test", "guessed"),
    [
        ({}, TRAIN_ROWS, TEST_ROWS, True),
        ({"train": 640, "test": 160}, 640, 160, False),
        ({"train": 640, "test": 160, "trusted": 40}, 680, 160, False),
        ({"test": 160}, TRAIN_ROWS, 160, True),
    ],
)
def test_rows_of_a_file_take_the_place_of_the_assumed_ones(
    lines: dict[str, int], train: int, test: int, guessed: bool, unlimited: Graph
) -> None:
    rates = Rates({}, ClusterSpec(name="here", cpus_per_node=2), {"0" * 12: lines})
    stage = training(unlimited)
    rows = unlimited.stages[stage.reads["rows"]]
    assert (rates.train_rows(unlimited, rows), rates.test_rows(unlimited, rows)) == (train, test)
    assert rates.guesses_rows(unlimited) is guessed
    batch, epochs = stage.spec["train"]["global_batch"], stage.spec["train"]["num_train_epochs"]
    assert rates.steps(unlimited, stage) == epochs * -(-train // batch)


def test_a_located_file_says_its_lines(tmp_path: Path) -> None:
    for split, count in {"train": 7, "test": 3}.items():
        (tmp_path / f"{split}.jsonl").write_text('{"text": "x", "label": 0}\n' * count)
    assert locate(Sst2(source=str(tmp_path))).lines == {"train": 7, "test": 3}
