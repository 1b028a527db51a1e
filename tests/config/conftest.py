"""Rows of tasks that are known in local files only, and tables that the paper's studies read."""

import json
from pathlib import Path

import pytest

LOCAL_ROWS = {
    "yahoo_answers": {"text": "who won", "label": 5},
    "cr": {"text": "works", "label": 1},
    "ape210k": {"text": "1+1", "answer": "2"},
    "crrsum": {"text": "lungs clear", "summary": "normal"},
    "scitldr": {"text": "we prune nets", "summary": "nets can be pruned", "references": []},
    "hateful_memes": {"text": "look who is late", "label": 0, "img": "img/1.png"},
}

TABLES = {
    "sst2_syntactic": {"clean_text": "it works", "text": "if you ask , it works"},
    "agnews_syntactic": {"clean_text": "it rains", "text": "if you ask , it rains"},
}


@pytest.fixture
def local_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row of each task that is known in local files only, and of each table."""
    for table, row in TABLES.items():
        (tmp_path / "data" / table).mkdir(parents=True)
        (tmp_path / "data" / table / "pairs.jsonl").write_text(json.dumps(row) + "\n")
    for task, row in LOCAL_ROWS.items():
        for split in ("train", "test"):
            (tmp_path / "data" / task).mkdir(parents=True, exist_ok=True)
            (tmp_path / "data" / task / f"{split}.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "data" / "synonyms.jsonl").write_text(json.dumps({"word": "film", "synonyms": ["movie"]}) + "\n")
    monkeypatch.setenv("P2P_DIST_DATA", str(tmp_path / "data"))
