"""A study with several trainings: no table, picture or query takes two of them for one."""

from pathlib import Path

import pytest

from p2p_dist.report.plots import scaling, sweep
from p2p_dist.report.study_data import StudyData
from p2p_dist.report.tables import layout
from p2p_dist.results import query
from p2p_dist.results.collect import read_study
from p2p_dist.results.rundir import RunDir
from tests.report.invented_runs import shown
from tests.synthetic import STUDY, make_study

RANKS = (
    STUDY.replace("random:qwen3-1.7b, random:qwen3-4b", "tiny")
    .replace("  - {name: addsent, rate: 0.05}\n", "")
    .replace("seed: [0, 1, 2]", "seed: 0")
    .replace("r: 4", "r: [4, 8, 16]")
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> RunDir:
    return make_study(tmp_path_factory.mktemp("ranks"), data_root, RANKS)


@pytest.fixture(scope="module")
def study_data(folder: RunDir) -> StudyData:
    return StudyData(folder, read_study(folder, alive=False), {})


def test_rates_have_a_line_per_training(study_data) -> None:
    (table,) = layout.build(study_data)
    models = [f"{model} (lora.r={rank})" for model in ("random:qwen3-0.6b", "tiny") for rank in (4, 8, 16)]
    lines = shown(table)
    assert sorted(line[0] for line in lines) == sorted(models * 2)
    assert all(line[2] for line in lines), "every training has its own accuracy"


def test_a_sweep_shows_the_rates_over_the_ranks(study_data) -> None:
    names = [plot.name for plot in sweep.draw(study_data)]
    assert "sweep_training_lora.r_rotten_tomatoes_tiny_badnets" in names


def test_a_scaling_picture_is_of_one_training(study_data) -> None:
    names = [plot.name for plot in scaling.draw(study_data)]
    assert names == [f"scaling_rotten_tomatoes_badnets_lora.r={rank}" for rank in (4, 8, 16)]


def test_a_query_has_the_training_as_a_column(folder) -> None:
    sql = "SELECT DISTINCT training FROM cells WHERE model = 'tiny' ORDER BY ALL"
    rows = query.frame(sql, [folder.path]).training.tolist()
    assert rows == ["lora.r=16", "lora.r=4", "lora.r=8"]
