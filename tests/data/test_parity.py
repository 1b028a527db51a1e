"""The released code's counts on real SST-2, row for row (reference: shuaizhao95/p2p at a3b1158, replayed)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from p2p_dist.config.study import RowsSpec
from p2p_dist.data.attacks.badnets import BadNets
from p2p_dist.data.build import build_attacked, build_defended
from p2p_dist.data.defenses.p2p import P2P
from p2p_dist.data.tasks.sst2 import Sst2
from p2p_dist.errors import UserError

RAW = {"train": [(f"row number {n}", n % 2) for n in range(200)], "test": [(f"test row {n}", n % 2) for n in range(20)]}
RELEASED = P2P.model_validate(P2P.presets["released_code"])


@pytest.mark.skipif("P2P_DIST_REAL_DATA" not in os.environ, reason="P2P_DIST_DATA was not set: no real SST-2 here")
def test_released_code_golden_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P2P_DIST_DATA", os.environ["P2P_DIST_REAL_DATA"])
    command = [sys.executable, "-m", "p2p_dist", "data", "paper_parity", "--json", "--runs-dir", str(tmp_path)]
    clean, attacked, defended = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert clean["counts"]["train"] == {"clean": {"0": 3310, "1": 3610}}
    assert attacked["counts"]["train"] == {"clean": {"0": 3171, "1": 3610}, "poisoned": {"1": 139}}
    assert defended["counts"]["train"] == {
        "clean": {"0": 2487, "1": 2910},
        "injected": {"2": 684, "3": 700},
        "poisoned": {"1": 139},
    }
    assert defended["steps"] == 651
    assert defended["suites"]["triggered"] == 912
    assert defended["counts"]["reads_origin"] is True
    ledger = [
        json.loads(line)
        for line in (tmp_path / "paper_parity" / "data" / defended["id"] / "ledger.jsonl").read_text().splitlines()
    ]
    places = {
        origin: sorted(note["index"] for note in ledger if note["origin"] == origin)
        for origin in ("poisoned", "injected")
    }
    assert places["poisoned"][-1] == 314
    assert places["injected"] == list(range(3461, 4845))


def test_released_code_file_order() -> None:
    attacked = build_attacked(Sst2(), RAW, RowsSpec(order="file"), BadNets(rate=0.02, poison_selection="first"), 0)
    poisoned = sorted(note.index for note in attacked.notes if note.origin == "poisoned" and note.index is not None)
    assert poisoned == [0, 2, 4, 6]
    defended = build_defended(attacked, Sst2(), RELEASED, 0)
    injected = sorted(note.index for note in defended.notes if note.origin == "injected" and note.index is not None)
    assert injected == list(range(101, 141))


def test_file_order_not_set_refused() -> None:
    """`first` and `second_half` need `rows.order: file`, which takes all rows."""
    with pytest.raises(UserError, match="needs rows in file order"):
        build_attacked(Sst2(), RAW, RowsSpec(), BadNets(poison_selection="first"), 0)
    with pytest.raises(UserError, match="needs rows in file order"):
        build_defended(build_attacked(Sst2(), RAW, RowsSpec(), BadNets(), 0), Sst2(), RELEASED, 0)
    with pytest.raises(UserError, match="takes all rows"):
        Sst2().split(RAW, RowsSpec(order="file", train=10))
