"""Data stages on disk: the same bytes for the same rows, and damage is noticed."""

from pathlib import Path

import pytest

from p2p_dist.config.study import RowsSpec
from p2p_dist.data.attacks.badnets import BadNets
from p2p_dist.data.build import build_attacked, build_defended
from p2p_dist.data.built import Built
from p2p_dist.data.defenses.p2p import P2P
from p2p_dist.data.tasks.sst2 import Sst2
from p2p_dist.errors import UserError
from p2p_dist.results import datastore
from p2p_dist.results.rundir import StageDir
from tests.rows import sentences


def built() -> Built:
    raw = {
        split: [(f"{row['text']}\x85 caf\u00e9 \u2028", int(row["label"])) for row in sentences(n, n)]
        for split, n in (("train", 120), ("test", 20))
    }
    attacked = build_attacked(Sst2(), raw, RowsSpec(reserve=40), BadNets(rate=0.1), 0)
    return build_defended(attacked, Sst2(), P2P(), 0)


def test_round_trip_and_same_bytes(tmp_path: Path) -> None:
    one, two = StageDir(tmp_path / "one", "data"), StageDir(tmp_path / "two", "data")
    datastore.write(one, built(), {"a": 1})
    datastore.write(two, datastore.read(one), {"a": 1})
    files = sorted(path.name for path in one.path.iterdir())
    assert files == sorted(path.name for path in two.path.iterdir())
    assert all((one.path / name).read_bytes() == (two.path / name).read_bytes() for name in files)
    assert datastore.manifest_sha256(one) == datastore.manifest_sha256(two)


def test_an_edited_row_is_noticed(tmp_path: Path) -> None:
    stage = StageDir(tmp_path / "one", "data")
    datastore.write(stage, built(), {})
    train = stage.path / "train.jsonl"
    train.write_text(train.read_text().replace('"label": 0', '"label": 1', 1))
    with pytest.raises(UserError, match="E209"):
        datastore.read(stage)


def test_rows_that_defenders_read_carry_no_origin(tmp_path: Path) -> None:
    stage = StageDir(tmp_path / "one", "data")
    datastore.write(stage, built(), {})
    assert "poisoned" not in (stage.path / "train.jsonl").read_text()
    assert "poisoned" in (stage.path / "ledger.jsonl").read_text()
