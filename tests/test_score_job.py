"""Scores of rows by a tuned model, and a training that starts from it, by the worker in this process."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from p2p_dist import worker
from p2p_dist.errors import Exit, UserError
from p2p_dist.results import scorestore
from p2p_dist.results.rundir import RunDir
from p2p_dist.scheduling.study import open_study
from p2p_dist.spec.graph import Stage
from tests.conftest import TINY_STUDY


@pytest.mark.usefixtures("with_data")
def test_score_then_train_on_from_there(study_file: Callable[[str], Path], tmp_path: Path) -> None:
    study = open_study(study_file(TINY_STUDY), ["attack=none", "defense=none", "exclude=[]"], tmp_path / "runs")
    graph, folder = study.expansion.graph, study.folder
    train = next(stage for stage in graph.stages.values() if stage.kind == "train")
    rows = graph.stages[train.reads["rows"]]
    method = {"name": "labels", "sets": ["train", "reserve", "clean"]}
    score = graph.add(Stage("score", {"method": method}, {"rows": rows.id, "adapter": train.id}))
    further = graph.add(Stage("train", {**train.spec, "stop_after_steps": 1}, {"rows": rows.id, "start": train.id}, train.local))
    folder.write_specs(graph)
    for stage in (rows, train, score, further):
        assert worker.main(["--study-dir", str(folder.path), "--stages", stage.id]) == Exit.OK
        assert folder.stage(stage).is_done()
    found = scorestore.read(folder.stage(score))
    assert {name: len(of) for name, of in found.items()} == {"train": 64, "reserve": 20, "clean": 20}
    assert all(len(line["scores"]) == 2 and max(line["scores"]) < 0 for line in found["train"].values())
    assert {id_: found["train"][id_] for id_ in found["reserve"]} == found["reserve"]
    assert json.loads(folder.stage(further).cost.read_text())["steps"] == 1
    assert folder.stage(score).last_metrics() == {"rows": 104, "of": 104}


def test_a_broken_line_of_scores_is_named(tmp_path: Path) -> None:
    stage = RunDir(tmp_path).at("score", "0" * 12)
    scorestore.write(stage, [{"set": "train", "id": "a", "x": 1.0}])
    assert scorestore.read(stage) == {"train": {"a": {"x": 1.0}}}
    stage.scores.write_text('{"set": "train", "id": "a"}\n{"id": "b"}\n')
    with pytest.raises(UserError, match=r"E261.*scores\.jsonl:2"):
        scorestore.read(stage)
