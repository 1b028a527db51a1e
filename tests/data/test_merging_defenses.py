"""LETHE, DUP, BTU, MuScleLoRA and Obliviate as stages and rows, without a model."""

from collections import Counter
from dataclasses import replace

import pytest

from p2p_dist.config.study import RowsSpec
from p2p_dist.data.attacks.badnets import BadNets
from p2p_dist.data.defense import DefenderView
from p2p_dist.data.defenses.btu import Btu
from p2p_dist.data.defenses.dup import Dup
from p2p_dist.data.defenses.musclelora import MuScleLora
from p2p_dist.data.example import Row
from p2p_dist.data.tasks.sst2 import Sst2
from p2p_dist.errors import UserError
from tests.rows import sentences

ROWS = [Row(f"{n:03d}", str(row["text"]), int(str(row["label"])), "\nOutput: ") for n, row in enumerate(sentences(40))]
VIEW = DefenderView(ROWS, ROWS[:12], 2, 0)


def test_dup_gives_the_farthest_rows_every_label() -> None:
    """The farthest of each class that nobody has checked, with all labels; the first copy keeps its id."""
    far = {label: next(row for row in ROWS[12:] if row.label == label) for label in (0, 1)}
    distances = {row.id: 9.0 if row in (*far.values(), ROWS[0]) else 0.1 for row in ROWS}
    scores = {"states": {"train": {id_: {"distance": value} for id_, value in distances.items()}}}
    defended = Dup(ratio=0.2, share=0.05).defend_train(replace(VIEW, scores=scores))
    suspects = {row.id for row in far.values()}
    of_suspects = [row for row in defended.train if row.id.partition("/")[0] in suspects]
    assert Counter(row.id.partition("/")[0] for row in of_suspects) == dict.fromkeys(suspects, 2)
    assert Counter(row.label for row in of_suspects) == {0: 2, 1: 2}
    assert set(defended.copies.values()) == suspects
    assert defended.trusted == {row.id for row in ROWS} - suspects
    assert len(defended.train) == 8 + 4
    assert {row.id for row in defended.train} - set(defended.copies) - suspects <= {row.id for row in ROWS[:12]}


def test_dup_draws_labels_where_there_are_many() -> None:
    rows = [replace(row, label=n % 20) for n, row in enumerate(ROWS)]
    scores = {"states": {"train": {row.id: {"distance": 1.0} for row in rows}}}
    view = DefenderView(rows, rows[:12], 20, 0, scores=scores)
    defended = Dup(ratio=0.2, share=0.5, labels=3).defend_train(view)
    counts = Counter(row.id.partition("/")[0] for row in defended.train)
    assert set(counts.values()) == {1, 3}


@pytest.mark.parametrize(("reserve", "refused"), [(0, True), (7, True), (8, False)])
def test_dup_with_few_trusted_rows_is_incompatible(reserve: int, refused: bool) -> None:
    """Said when the study is read: the distance would be refused after the training of the attacked adapter."""
    reason = Dup().incompatibility(Sst2(), BadNets(), RowsSpec(reserve=reserve))
    assert (reason is not None) == refused
    assert reason is None or f"rows.reserve is {reserve}" in reason


def test_btu_deletes_suspected_words_of_all_texts() -> None:
    view = DefenderView([Row("a", "so mn fine", 1, ""), Row("b", "mn", 0, ""), Row("c", "so fine", 0, "")], [], 2, 0)
    scores = {"drift": {"words": {"mn": {"drift": 0.2}}, "tokens": {"counts": {"suspected": 1, "different": 3}}}}
    defended = Btu().defend_train(replace(view, scores=scores))
    assert [row.text for row in defended.train] == ["so fine", "mn", "so fine"]
    assert defended.counts["strongest_words"] == ["mn"]
    assert defended.counts["rewritten"] == 1
    assert Btu().edit([Row("t", "a mn mnx", 0, "")], scores) == ["a mnx"]


def test_musclelora_control_has_as_many_rows_as_the_attacked() -> None:
    defended = MuScleLora(clean_rows=10, control=True).defend_train(VIEW)
    assert len(defended.train) == 40
    assert {row.id.partition("/")[0] for row in defended.train} <= {row.id for row in ROWS[:12]}
    with pytest.raises(UserError, match="E205"):
        MuScleLora(clean_rows=13, control=True).defend_train(VIEW)
