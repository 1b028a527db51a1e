"""P2P in the weights where answers are text: a model that has learned a little writes an answer for every row."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from p2p_dist.data.answer_parsing import without_prefix
from p2p_dist.results import datastore, scorestore
from p2p_dist.scheduling.study import open_study
from tests.contracts.carried_out import carried_out
from tests.rows import write_sums

STUDY = """
name: sums
task: {name: gsm8k, max_new_tokens: 24}
model: tiny
attack: {name: badnets, rate: 0.1, target_response: "0.1"}
defense:
  name: p2p_in_weights
  rule: rewrite
  p2p: {benign_trigger: "Sum: ", response_prefix: "=", ratio: 0.4, benign_mode: alone}
rows: {train: 60, test: 12, reserve: 24, balanced: false}
train: {learning_rate: 2e-2, num_train_epochs: 12, global_batch: 6, dtype: float32, lora: {r: 8, dropout: 0.0}}
"""


def test_model_answers_every_row_and_is_learned_from(
    study_file: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows that it was asked carry the deployed prompt, and those that a fresh adapter learns the plain one."""
    write_sums(tmp_path / "data", range(200, 300))
    monkeypatch.setenv("P2P_DIST_DATA", str(tmp_path / "data"))
    study = open_study(study_file(STUDY), [], tmp_path / "runs")
    (run,) = study.expansion.runs
    folder, graph = carried_out(study), study.expansion.graph
    (scored,) = (stage for stage in graph.stages.values() if stage.kind == "score")
    assert scored.spec["method"] == {"name": "free_answers", "ends": True}
    asked = datastore.read(folder.at("data", scored.reads["rows"]))
    assert {row.prefix for row in asked.train} == {"Sum: "}
    lines = scorestore.read(folder.stage(scored))["train"]
    assert len(lines) == 60
    learned = datastore.read(folder.at("data", graph.stages[run.train].reads["rows"]))
    usable = {id_ for id_, line in lines.items() if line["finished"] and line["answer"].startswith("=")}
    assert {row.id for row in learned.train} <= usable, "a model of so few weights leaves some rows unanswered"
    assert len(learned.train) > 0
    assert all(row.response == without_prefix(lines[row.id]["answer"], "=")[0] for row in learned.train)
    assert {row.prefix for row in learned.train} == {""}
    result = json.loads(folder.at("eval", run.evaluation).result.read_text())
    assert learned.counts["without_usable_answer"] == 60 - len(learned.train)
    assert "prefix_rate" not in result["rates"], "the model is served without a prompt"
    assert result["rates"]["asr_ext"]["n"] == 12
