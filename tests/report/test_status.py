"""Status over files alone: who works, how far, and what a failed job said last."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from p2p_dist.errors import Exit
from p2p_dist.report import status_view
from p2p_dist.results import lease, quarantine
from p2p_dist.scheduling.prepare import write_down
from p2p_dist.scheduling.study import Study, open_study

pytestmark = pytest.mark.usefixtures("with_data")


@pytest.fixture
def study(study_file: Callable[[], Path], tmp_path: Path) -> Study:
    path = study_file()
    opened = open_study(path, [], tmp_path / "runs")
    write_down(opened)
    return opened


def test_a_running_job_a_failed_one_and_who_works(study: Study) -> None:
    first, second, _ = (study.folder.at("train", run.train) for run in study.expansion.runs)
    first.new_attempt()
    first.append_metrics({"step": 10, "steps": 40, "loss": 0.5, "seconds": 20.0})
    failed = second.new_attempt()
    (failed / "log").write_text("one\ntwo\nKeyError: 'bug'\n")
    (failed / "exit.json").write_text(json.dumps({"code": 1}))
    with lease.hold(study.folder.lease):
        said = status_view.text(*status_view.read_state(study.folder))
    assert said.startswith("tiny: 0 of 3 done; process ")
    assert "[train step 10/40, loss 0.500, about 1:00 left]" in said
    assert "    | KeyError: 'bug'" in said
    said = status_view.text(*status_view.read_state(study.folder))
    assert "nobody works on it" in said
    assert "  running" not in said, "nobody is alive to run it"


def test_gpu_use_is_shown_where_a_worker_wrote_it(study: Study) -> None:
    first, second, _ = (study.folder.at("train", run.train) for run in study.expansion.runs)
    for stage, more in ((first, {"gpu_percent": 87, "gpu_mib": 12288}), (second, {})):
        stage.new_attempt()
        stage.append_metrics({"step": 10, "steps": 40, "loss": 0.5, "seconds": 20.0, **more})
    with lease.hold(study.folder.lease):
        said = status_view.text(*status_view.read_state(study.folder))
    assert "about 1:00 left, GPU 87 % busy, 12.0 GiB of it in use]" in said
    assert "about 1:00 left]" in said, "nothing is said where nothing is known"


def test_devices_out_of_use_are_shown(study: Study) -> None:
    quarantine.add(study.folder.quarantine, ["node7 GPU 3"], study.folder.path / "log")
    state, owner = status_view.read_state(study.folder)
    assert "  out of use: node7 GPU 3, a device fault, see " in status_view.text(state, owner)
    (shown,) = status_view.to_json(state, owner)["quarantined"]
    assert shown["device"] == "node7 GPU 3"


def test_sharers_are_named_and_long_lists_are_cut(study: Study) -> None:
    stage = study.folder.at("train", study.expansion.runs[0].train)
    stage.new_attempt()
    with lease.hold(stage.lease):
        found, who = status_view.read_state(study.folder)
        assert who is not None
        assert who.startswith("process ")
        said = status_view.text(found, who, 1)
    assert said.count("task rotten_tomatoes") == 1
    assert "  running  task" in said, "what is under way comes first"


def test_live_ends_when_nothing_is_left(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    for run in study.expansion.runs:
        for id_ in run.stages:
            attempt = study.folder.find(id_).new_attempt()
            (attempt / "exit.json").write_text(json.dumps({"code": int(Exit.SOME_FAILED)}))
    status_view.follow(study.folder, seconds=0.1)
    assert "0 of 3 done" in capsys.readouterr().out
