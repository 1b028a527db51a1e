"""Scores of rows by a tuned model, and a training that starts from it, by the worker in this process."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from p2p_dist.config.graph import Stage
from p2p_dist.errors import Exit, UserError
from p2p_dist.report import status_view
from p2p_dist.report.page import write_report
from p2p_dist.results import scorestore
from p2p_dist.results.predictions import Prediction
from p2p_dist.results.rundir import RunDir
from p2p_dist.scheduling.prepare import settle
from p2p_dist.scheduling.study import open_study
from p2p_dist.scores.early import agreement
from p2p_dist.worker.__main__ import main as worker_main
from tests.conftest import TINY_STUDY


@pytest.mark.usefixtures("with_data")
def test_score_by_an_adapter_then_train_from_it(study_file: Callable[[str], Path], tmp_path: Path) -> None:
    """Rows are scored by a tuned model, and another training starts from it."""
    study = open_study(study_file(TINY_STUDY), ["attack=none", "defense=none", "exclude=[]"], tmp_path / "runs")
    graph, folder = study.expansion.graph, study.folder
    train = next(stage for stage in graph.stages.values() if stage.kind == "train")
    rows = graph.stages[train.reads["rows"]]
    method = {"name": "labels", "sets": ["train", "reserve", "clean"]}
    score = graph.add(Stage("score", {"method": method}, {"rows": rows.id, "adapter": train.id}))
    further = graph.add(
        Stage("train", {**train.spec, "stop_after_steps": 1}, {"rows": rows.id, "start": train.id}, train.local)
    )
    folder.write_specs(graph)
    for stage in (rows, train, score, further):
        assert worker_main(["--study-dir", str(folder.path), "--stages", stage.id]) == Exit.OK
        assert folder.stage(stage).is_done()
    table = scorestore.read(folder.stage(score))
    assert {name: len(of) for name, of in table.items()} == {"train": 64, "reserve": 20, "clean": 20}
    assert all(len(line["scores"]) == 2 and max(line["scores"]) < 0 for line in table["train"].values())
    assert {id_: table["train"][id_] for id_ in table["reserve"]} == table["reserve"]
    assert json.loads(folder.stage(further).cost.read_text())["steps"] == 1
    assert folder.stage(score).last_metrics() == {"rows": 104, "of": 104}


def test_agreement_is_counted_by_given_label() -> None:
    """Agreement is a share per given label."""
    rows = [
        Prediction("a", 0, (-0.1, -3.0), 0),
        Prediction("b", 0, (-3.0, -0.1), 1),
        Prediction("c", 1, (-3.0, -0.1), 1),
    ]
    assert agreement(rows) == [0.5, 1.0]


@pytest.mark.usefixtures("with_data")
def test_early_trust_rule_never_met_stops_the_study(
    study_file: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rule that is never met ends with the training, and table, status and report say so first."""
    defense = "defense={name: p2p, benign_source: screened, screening: {check_every: 1, probe: 10, agreement: 0.999}}"
    overrides = ["attack=none", "exclude=[]", "train.learning_rate=1e-9", "rows.reserve=0"]
    study = open_study(study_file(TINY_STUDY), [defense, *overrides], tmp_path / "runs")
    graph, folder = study.expansion.graph, study.folder
    folder.write_specs(graph)
    score = next(stage for stage in graph.stages.values() if stage.kind == "score")
    for id_ in (score.reads["rows"], score.id):
        assert worker_main(["--study-dir", str(folder.path), "--stages", id_]) == Exit.OK
    table = scorestore.read(folder.stage(score))
    assert table["screening"]["stop"]["reached"] is False
    assert table["screening"]["stop"]["step"] == 4
    assert len(table["train"]) == 64
    # The rows that need it are not built, and every view of the study begins with the reason.
    defended = next(stage for stage in graph.stages.values() if score.id in stage.reads.values())
    assert worker_main(["--study-dir", str(folder.path), "--stages", defended.id]) == Exit.USAGE
    assert "error[E270]: the screening failed: " in capsys.readouterr().err
    settle(study, study_file(TINY_STUDY))
    collected, owner = status_view.read_state(folder)
    assert status_view.text(collected, owner).startswith("WARNING: the screening failed: ")
    page = write_report(folder, collected, {}).read_text()
    assert page.index("WARNING: the screening failed") < page.index("No attacked model")


def test_read_scores_broken_line_raises_e261(tmp_path: Path) -> None:
    """A broken line is named by file and number."""
    stage = RunDir(tmp_path).at("score", "0" * 12)
    scorestore.write(stage, [{"set": "train", "id": "a", "x": 1.0}])
    assert scorestore.read(stage) == {"train": {"a": {"x": 1.0}}}
    stage.scores.write_text('{"set": "train", "id": "a"}\n{"id": "b"}\n')
    with pytest.raises(UserError, match=r"E519.*scores\.jsonl"):
        scorestore.read(stage)
    stage.checksums.unlink()  # as of an older version
    with pytest.raises(UserError, match=r"E261.*scores\.jsonl:2"):
        scorestore.read(stage)
