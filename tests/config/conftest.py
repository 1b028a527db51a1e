"""Rows of tasks that are known in local files only."""

import json
from pathlib import Path

import pytest

LOCAL_ROWS = {
    "yahoo_answers": {"text": "who won", "label": 5},
    "cr": {"text": "works", "label": 1},
    "ape210k": {"text": "1+1", "answer": "2"},
    "crrsum": {"text": "lungs clear", "summary": "normal"},
    "hateful_memes": {"text": "look who is late", "label": 0, "img": "img/1.png"},
}


@pytest.fixture
def local_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row of each task that is known in local files only."""
    for task, row in LOCAL_ROWS.items():
        for split in ("train", "test"):
            (tmp_path / "data" / task).mkdir(parents=True, exist_ok=True)
            (tmp_path / "data" / task / f"{split}.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.setenv("P2P_DIST_DATA", str(tmp_path / "data"))
