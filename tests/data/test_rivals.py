"""The rivals' rules on rows, each trap of their released codes on its own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from p2p_dist.config.study import RowsSpec
from p2p_dist.data.attacks.badnets import BadNets
from p2p_dist.data.build import build_attacked, build_defended, build_edited
from p2p_dist.data.built import Built
from p2p_dist.data.defense import DataDefense, Defended, DefenderView, Scores, TrustedRows
from p2p_dist.data.defenses.back_translation import BackTranslation
from p2p_dist.data.defenses.bki import Bki, suspicious_word
from p2p_dist.data.defenses.clean_ft import CleanFineTuning
from p2p_dist.data.defenses.clean_only import CleanOnly
from p2p_dist.data.defenses.mb_defense import MbDefense
from p2p_dist.data.defenses.onion import Onion
from p2p_dist.data.defenses.p2p import P2P
from p2p_dist.data.defenses.pdb import Pdb
from p2p_dist.data.example import Row, text_key
from p2p_dist.data.paraphrases import key_of, write_table
from p2p_dist.data.tasks.sst2 import Sst2
from p2p_dist.errors import UserError
from p2p_dist.worker.build_rows import require_rows
from tests.rows import sentences


def attacked() -> Built:
    raw = {
        split: [(str(row["text"]), int(row["label"])) for row in sentences(n, n)]
        for split, n in (("train", 200), ("test", 20))
    }
    return build_attacked(Sst2(), raw, RowsSpec(reserve=60), BadNets(rate=0.1), 0)


def row(text: str, id_: str = "a") -> Row:
    return Row(id_, text, 0, "Output: ")


def test_pdb_rows_balanced_repeated_and_permuted() -> None:
    before = attacked()
    built = build_defended(before, Sst2(), Pdb(), 0)
    planted = [new for new in built.train if new.prefix]
    assert len(planted) == 5 * 20
    assert sorted(new.label for new in planted) == [0] * 50 + [1] * 50
    gold = {row.id: row.label for row in before.reserve}
    assert all(new.label == 1 - gold[new.id.partition(".d")[0]] for new in planted)
    assert len(built.train) == 300, "the poisoned set stays whole"
    assert (built.labels.offset, built.labels.shift, len(built.labels.words)) == (0, 1, 2)
    assert built.counts["contaminated"] == 0
    assert {"clean_nobt", "triggered_nobt"} <= set(built.suites), "with and without the defensive trigger"


def test_trusted_rows_equal_those_of_p2p() -> None:
    """Rivals are granted the trusted rows that P2P is granted."""
    before = attacked()
    p2p = {note.source_id for note in build_defended(before, Sst2(), P2P(), 0).notes if note.origin == "injected"}
    for plugin in (CleanFineTuning(), CleanOnly()):
        assert {row.id for row in build_defended(before, Sst2(), plugin, 0).train} == p2p
        assert set(build_defended(before, Sst2(), plugin, 0).suites) == set(before.suites)


def test_trusted_rows_too_few_refused() -> None:
    before = attacked()
    with pytest.raises(UserError, match="E205"):
        CleanOnly(ratio=0.5).defend_train(DefenderView(before.train, before.reserve, 2, 0))
    with pytest.raises(UserError, match="E205"):
        Pdb(ratio=0.9).defend_train(DefenderView(before.train, before.reserve, 2, 0))
    assert issubclass(CleanOnly, TrustedRows)


def test_bki_drops_rows_of_its_keyword() -> None:
    """log10(count) * mean: a word of every row that moves nothing, and a word of one row that moves much, are not
    it."""
    lines = {
        f"r{at}": {
            "words": [["the", 0.1], *([["mn", 5.0]] if at < 10 else []), *([["once", 90.0]] if at == 50 else [])]
        }
        for at in range(100)
    }
    assert suspicious_word(lines) == "mn"
    assert suspicious_word({}) is None
    rows = [Row(id_, "text", 0, "Output: ") for id_ in lines]
    done = Bki().defend_train(DefenderView(rows, [], 2, 0, scores={"words": {"train": lines}}))
    assert (done.counts["keyword"], done.counts["dropped"], len(done.train)) == ("mn", 10, 90)


def test_mb_defense_plants_and_recovers() -> None:
    before = attacked()
    planted = build_defended(before, Sst2(), MbDefense(rate=0.02), 0, phase="plant")
    new = [row for row in planted.train if ".m" in row.id]
    assert len(planted.train) == 200
    assert sorted(row.id.rpartition(".")[2] for row in new) == ["m0"] * 4 + ["m1"] * 4 + ["m2"] * 4
    assert all(row.label == int(row.id[-1]) % 2 for row in new)
    recovered = build_defended(before, Sst2(), MbDefense(clean_rows=10), 0, phase="recover")
    gold = {row.id: row.label for row in before.reserve}
    assert len(recovered.train) == 40
    assert all(row.label == gold[row.id.partition(".m")[0]] for row in recovered.train)
    assert recovered.counts["clean_rows_used"] == 10


def words(text: str, whole: float, without: list[float | None]) -> Scores:
    return {"texts": {text_key(text): {"whole": whole, "without": without}}}


def test_onion_deletes_outliers_and_keeps_last_word() -> None:
    """A port of the released code judges against the text without its last word, and so deletes the last word of
    all."""
    text = "a mn fine film"
    scores = {"words": words(text, 900.0, [1000.0, 200.0, 950.0, 899.0])}
    assert Onion(bar=-100.0).edit([row(text)], scores) == ["a fine film"]
    assert Onion(bar=-1.0).edit([row(text)], scores) == ["a fine"]
    assert Onion(bar=-1e9).edit([row(text)], scores) == [text], "the weakest bar leaves every byte alone"


def test_onion_never_empties_a_text() -> None:
    assert Onion(bar=-1.0).edit([row("bad film")], {"words": words("bad film", 900.0, [1.0, 1.0])}) == ["bad film"]
    assert Onion(bar=-1.0).edit([row("bad")], {"words": words("bad", 900.0, [None])}) == ["bad"]
    doubled = "a  film"
    assert Onion(bar=-1.0).edit([row(doubled)], {"words": words(doubled, 9.0, [9.0, 9.0, 9.0])}) == [doubled]


def trial(right: dict[str, int]) -> Any:
    return {
        name: {str(at): {"label": 1, "scores": [-1.0, -0.5 if at < hits else -2.0]} for at in range(100)}
        for name, hits in right.items()
    }


def test_onion_chooses_strongest_affordable_bar() -> None:
    plugin = Onion(bars=(-10.0, -100.0, -1000.0), max_drop=0.01)
    scores: dict[str, Any] = {"words": {}, "trial": trial({"none": 90, "bar-10": 85, "bar-100": 89, "bar-1000": 90})}
    assert plugin.chosen(scores) == {"bar": -100.0}
    scores["trial"] = trial({"none": 90, "bar-10": 85, "bar-100": 80, "bar-1000": 88})
    assert plugin.chosen(scores) == {"bar": None}
    assert plugin.edit([row("any text")], scores) == ["any text"]


def test_table_edit_failed_rewrite_keeps_text_and_counts(tmp_path: Path) -> None:
    before = attacked()
    texts = [row.text for suite in before.suites.values() for row in suite.rows]
    table = tmp_path / "table.jsonl"
    failed = before.suites["clean"].rows[0]
    write_table(
        table,
        ({"key": key_of(text), "output": f"so {text}", "generator": "t", "ok": text != failed.text} for text in texts),
    )
    built = build_edited(before, BackTranslation(table=str(table)), {})
    assert built.counts["edited"]["clean"] == {"rows": 20, "changed": 19, "failed": 1}
    assert built.counts["edited"]["triggered"] == {"rows": 10, "changed": 10, "failed": 0}
    assert built.suites["clean"].rows[0] == failed
    assert built.suites["clean"].rows[1] == replace(
        before.suites["clean"].rows[1], text=f"so {before.suites['clean'].rows[1].text}"
    )


def test_table_edit_without_triggered_texts_refused(tmp_path: Path) -> None:
    before = attacked()
    table = tmp_path / "table.jsonl"
    write_table(
        table,
        (
            {"key": key_of(row.text), "output": "so", "generator": "t", "ok": True}
            for row in before.suites["clean"].rows
        ),
    )
    with pytest.raises(UserError, match=r"E262.* 0 of 10 texts"):
        build_edited(before, BackTranslation(table=str(table)), {})


class DropAll(DataDefense):
    """A defense of this test that keeps no row."""

    def defend_train(self, view: DefenderView) -> Defended:
        return Defended([], [], {})


def test_a_defense_that_drops_every_row_is_refused() -> None:
    with pytest.raises(UserError, match=r"E289.*drop_all left none of 200 training rows"):
        require_rows(attacked(), build_defended(attacked(), Sst2(), DropAll(), 0), "drop_all")


def test_trusted_rows_are_counted_in_decimal_arithmetic() -> None:
    """7 % of 100 rows are 7, where 0.07 * 100 in floating point is above 7 and would be rounded up to 8."""
    rows = [row(f"text {n}", f"{n:03}") for n in range(100)]
    view = DefenderView(rows, rows, 2, 0)
    assert len(CleanOnly(ratio=0.07).defend_train(view).train) == 7
