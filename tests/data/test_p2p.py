"""P2P's rows: counts, labels, prompts, and where benign rows come from."""

from collections import Counter

import pytest

from p2p_dist.config.study import RowsSpec
from p2p_dist.data.attacks.badnets import BadNets
from p2p_dist.data.build import build_attacked, build_defended
from p2p_dist.data.built import Built
from p2p_dist.data.defenses.p2p import P2P
from p2p_dist.data.prompts import prompt
from p2p_dist.data.tasks.rotten_tomatoes import RottenTomatoes
from p2p_dist.errors import UserError
from tests.rows import sentences

TASK = RottenTomatoes()
RAW = {
    "train": [(str(row["text"]), int(row["label"])) for row in sentences(400)],
    "test": [(str(row["text"]), int(row["label"])) for row in sentences(60, 5)],
}


def attacked(rate: float = 0.05, reserve: int = 60) -> Built:
    return build_attacked(TASK, RAW, RowsSpec(train=200, test=40, reserve=reserve), BadNets(rate=rate), 0)


def test_p2p_benign_rows_have_prefix_cue_and_extended_label() -> None:
    built = build_defended(attacked(reserve=40), TASK, P2P(), 0)
    benign = [row for row in built.train if row.prefix]
    assert len(benign) == 40
    assert Counter(row.label for row in built.train if not row.prefix) == Counter({0: 70, 1: 90})
    assert {row.label for row in benign} == {2, 3}
    assert built.labels.words == ["0", "1", "2", "3"]
    assert prompt(benign[0]).startswith("The query currently entered is: ")
    assert prompt(benign[0]).endswith("\nAnswer: ")


def test_p2p_deployed_suites_prompted_and_bare_ones_not() -> None:
    built = build_defended(attacked(), TASK, P2P(), 0)
    assert set(built.suites) == {"clean", "triggered", "clean_nobt", "triggered_nobt"}
    assert all(row.prefix and row.cue == "Answer: " for row in built.suites["triggered"].rows)
    assert all(not row.prefix and row.cue == "Output: " for row in built.suites["triggered_nobt"].rows)
    assert (built.suites["triggered"].offset, built.suites["triggered_nobt"].offset) == (2, 0)
    assert [row.text for row in built.suites["triggered"].rows] == [
        row.text for row in attacked().suites["triggered"].rows
    ]


@pytest.mark.parametrize(("mode", "rows"), [("union", 240), ("replace", 200)])
def test_p2p_benign_mode_row_counts(mode: str, rows: int) -> None:
    built = build_defended(attacked(), TASK, P2P.model_validate({"benign_source": "disjoint", "benign_mode": mode}), 0)
    assert len(built.train) == rows
    assert len(built.notes) == rows


def test_trusted_rows_are_training_rows_never_poisoned() -> None:
    built = attacked(rate=0.3)
    trusted = {row.id for row in built.reserve}
    assert len(trusted) == 60
    assert trusted < {row.id for row in built.train}
    assert not trusted & {note.id for note in built.notes if note.origin == "poisoned"}
    assert Counter(row.label for row in built.reserve) == Counter({0: 30, 1: 30})
    assert build_defended(built, TASK, P2P(), 0).counts["contaminated"] == 0


def test_p2p_random_from_d_counts_contamination() -> None:
    built = attacked(rate=0.2)
    defended = build_defended(built, TASK, P2P(benign_source="random_from_D", benign_mode="replace"), 0)
    poisoned = {note.id for note in built.notes if note.origin == "poisoned"}
    benign = {row.id.removesuffix(".b") for row in defended.train if row.prefix}
    assert defended.counts["contaminated"] == len(poisoned & benign) > 0


def test_p2p_only_disjoint_reads_origin() -> None:
    for source, reads in (("disjoint", True), ("clean_reserved", False), ("random_from_D", False)):
        built = build_defended(attacked(), TASK, P2P.model_validate({"benign_source": source}), 0)
        assert built.counts["reads_origin"] is reads


def test_p2p_too_few_trusted_rows_refused() -> None:
    with pytest.raises(UserError) as caught:
        build_defended(attacked(reserve=20), TASK, P2P(), 0)
    assert "P2P needs 40 benign rows (ratio 0.2 of 200); only 20 trusted rows are reserved" in str(caught.value)
    assert str(caught.value).endswith("Try: set rows.reserve=40")


def test_p2p_too_few_rows_in_second_half_refused() -> None:
    """A smaller benign subset than `ratio` asks for would pass for one of the right size."""
    rows = build_attacked(TASK, RAW, RowsSpec(order="file"), BadNets(rate=0.05), 0)
    with pytest.raises(
        UserError, match=r"E205.*P2P needs 320 benign rows .* of the second half .* lower defense.ratio"
    ):
        build_defended(rows, TASK, P2P(ratio=0.8, benign_source="random_from_D", benign_selection="second_half"), 0)
