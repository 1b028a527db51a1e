"""Rows of the contracts' studies."""

import json
from pathlib import Path

import pytest

from examples.drawn_memes import write_task


@pytest.fixture
def with_sums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invented sums as this process's `$P2P_DIST_DATA`."""
    for split, numbers in (("train", range(200, 280)), ("test", range(20))):
        rows = [
            {"text": f"a box of {n} and a box of {n + 1}", "solution": f"{n} + {n + 1}", "answer": str(2 * n + 1)}
            for n in numbers
        ]
        path = tmp_path / "data" / "gsm8k" / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("P2P_DIST_DATA", str(tmp_path / "data"))


@pytest.fixture(scope="session")
def memes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn images with captions, in the format of Hateful Memes."""
    return write_task(tmp_path_factory.mktemp("memes"), 60, 24)
