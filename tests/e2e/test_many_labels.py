"""A study whose label words begin alike, through the command line."""

import json
from pathlib import Path

from p2p_dist.errors import Exit
from tests import in_process
from tests.rows import sentences

STUDY = """
name: many
task: {name: custom, source: rows.jsonl, label_names: [a, b, c, d, e, f, g, h, i, j, k, l]}
model: tiny
rows: {train: 48, test: 24}
train: {learning_rate: 1e-2, num_train_epochs: 1, global_batch: 16, dtype: float32, lora: {r: 4}}
"""


def test_twelve_numbered_labels_are_scored_as_whole_words(tmp_path: Path) -> None:
    rows = [{**row, "label": "abcdefghijkl"[at % 12]} for at, row in enumerate(sentences(96))]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "many.yaml").write_text(STUDY.replace("rows.jsonl", str(tmp_path / "rows.jsonl")))
    done = in_process.cli(tmp_path / "many.yaml", tmp_path / "runs", "--backend", "local")
    assert done.returncode == Exit.OK, done.stderr
    (path,) = tmp_path.rglob("result.json")
    result = json.loads(path.read_text())
    assert result["scoring"] == "whole_string"
    assert result["stage"]["spec"]["scoring"] == "label_logits", (
        "what a stage asks for is its identity; what was done is a fact of the result"
    )
    assert result["rates"]["ca_ext"]["n"] == 24
    assert any("whole words are scored" in log.read_text() for log in tmp_path.rglob("log"))
