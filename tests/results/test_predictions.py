"""Predictions on disk: what was said is read back, and damage is named."""

from pathlib import Path

import pytest

from p2p_dist.errors import UserError
from p2p_dist.results import predictions
from p2p_dist.results.predictions import Prediction
from p2p_dist.results.rundir import StageDir

ROWS = [Prediction("a", 0, (-0.1, -2.5), 0), Prediction("b\u2028", 1, (-0.5, -1.0), None)]


def test_round_trip(tmp_path: Path) -> None:
    stage = StageDir(tmp_path, "eval")
    assert predictions.read(stage) == {}
    predictions.write(stage, "clean", ROWS)
    predictions.write(stage, "triggered", ROWS[:1])
    assert predictions.read(stage) == {"clean": ROWS, "triggered": ROWS[:1]}
    assert predictions.read(stage, ["clean", "never there"]) == {"clean": ROWS}


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    stage = StageDir(tmp_path, "eval")
    predictions.write(stage, "clean", ROWS)
    path = stage.predictions / "clean.jsonl"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"E501.*clean\.jsonl"):
        predictions.read(stage)
