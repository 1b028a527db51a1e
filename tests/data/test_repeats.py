"""Repeated rows: equal optimizer steps for small sets, and the ledger behind the copies."""

from collections import Counter

import pytest

from p2p_dist.config.study import RowsSpec
from p2p_dist.data.attacks.badnets import BadNets
from p2p_dist.data.build import build_attacked, build_defended
from p2p_dist.data.defenses.trusted_only import TrustedOnly
from p2p_dist.data.example import RawRow, Row
from p2p_dist.data.repeats import repeated
from p2p_dist.data.screening import Screening
from p2p_dist.data.tasks.sst2 import Sst2

ROWS = [Row(f"r{n}", f"text {n}", n % 2, "Output: ") for n in range(4)]


@pytest.mark.parametrize(("count", "most"), [(4, 1), (10, 3), (12, 3), (2, 1)])
def test_repeated_rows_differ_by_one_at_most(count: int, most: int) -> None:
    rows, copies = repeated(ROWS, count, 0)
    assert len(rows) == len({row.id for row in rows}) == max(count, 4)
    times = Counter(copies.get(row.id, row.id) for row in rows)
    assert times.keys() == {row.id for row in ROWS}
    assert max(times.values()) == most
    assert max(times.values()) - min(times.values()) <= 1
    texts = {row.id: row.text for row in ROWS}
    assert all(row.text == texts[copies.get(row.id, row.id)] for row in rows)
    assert repeated(ROWS, count, 0) == (rows, copies)


def test_trusted_only_takes_as_many_steps_as_all_rows() -> None:
    """Every trusted row as often as any other or once more; the ledger knows where each copy comes from."""
    raw = {split: [RawRow(f"{split} film number {n}", n % 2) for n in range(40)] for split in ("train", "test")}
    attacked = build_attacked(Sst2(), raw, RowsSpec(), BadNets(rate=0.1), 0)
    lines = {
        row.id: {"scores": [0.0, -1.0 - index / 100], "label": row.label} for index, row in enumerate(attacked.train)
    }
    scores = {"screen0": {"train": lines}}
    few = build_defended(attacked, Sst2(), TrustedOnly(), 0, scores)
    equal = build_defended(attacked, Sst2(), TrustedOnly(steps="equal"), 0, scores)
    assert len(few.train) < len(equal.train) == len(attacked.train)
    assert {row.text for row in few.train} == {row.text for row in equal.train}
    sources = {note.id: note.source_id for note in few.notes}
    assert {note.source_id for note in equal.notes} == set(sources.values())
    assert {note.id for note in equal.notes} == {row.id for row in equal.train}
    assert equal.counts["trusted"] == few.counts["trusted"]
    assert TrustedOnly(screening=Screening()).model_dump().keys() == {"screening"}, "ids of the default stay"
