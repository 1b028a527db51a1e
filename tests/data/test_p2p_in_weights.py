"""P2P in the weights: rows rewritten by the answers of a deployed model, and the stages that this takes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from p2p_dist.config.study import RowsSpec
from p2p_dist.data.attacks.badnets import BadNets
from p2p_dist.data.build import build_attacked, build_defended
from p2p_dist.data.defense import DefenderView
from p2p_dist.data.defenses.p2p import P2P
from p2p_dist.data.defenses.p2p_in_weights import P2PInWeights
from p2p_dist.data.example import RawRow, Row
from p2p_dist.data.tasks.sst2 import Sst2
from p2p_dist.scheduling.study import open_study

ROWS = [Row(str(n), f"text {n}", n % 2, "Output: ") for n in range(6)]
ANSWERS = {"0": (0, 9.0), "1": (1, 8.0), "2": (1, 7.0), "3": (1, 0.5), "4": (0, 0.4), "5": (0, 0.1)}
"""Answer and margin by row; rows 2 and 5 are answered with the other label."""


def view(offset: int, rows: list[Row] = ROWS) -> DefenderView:
    """Scores of two classes and their extended labels. The labels that are not read are the likeliest by far."""
    lines: dict[str, dict[str, Any]] = {}
    for id_, (label, margin) in ANSWERS.items():
        scores = [0.0, 0.0, 0.0, 0.0]
        scores[offset : offset + 2] = [-1.0, -1.0]
        scores[offset + label] += margin - 10
        scores[offset + 1 - label] -= 10
        lines[id_] = {"label": int(id_) % 2 + offset, "scores": scores}
    return DefenderView(rows, [], 2, 0, scores={"answers": {"train": lines}})


@pytest.mark.parametrize(("options", "offset"), [({}, 2), ({"p2p": None}, 0)], ids=["p2p", "undefended"])
@pytest.mark.parametrize(
    ("rule", "labels"),
    [
        ("rewrite", {"0": 0, "1": 1, "2": 1, "3": 1, "4": 0, "5": 0}),
        ("agree", {"0": 0, "1": 1, "3": 1, "4": 0}),
        ("sure", {"0": 0, "1": 1, "2": 1, "4": 0}),
    ],
)
def test_defend_train_rewrites_by_the_deployed_labels(
    rule: str, labels: dict[str, int], options: dict[str, Any], offset: int
) -> None:
    """The answers of P2P are read among its extended labels, those of the undefended model among the task's."""
    defense = P2PInWeights.model_validate({"rule": rule, "sure_share": 0.67, **options})
    defended = defense.defend_train(view(offset))
    assert {row.id: row.label for row in defended.train} == labels
    assert all(row.text == ROWS[int(row.id)].text and not row.prefix for row in defended.train), "the plain prompt"
    assert defended.trusted == {"0", "1", "3", "4"}
    assert defended.counts["kept"] + defended.counts["dropped"] == 6
    assert defended.counts["relabelled"] == sum(labels[id_] != int(id_) % 2 for id_ in labels)


def test_soft_labels_are_drawn_by_their_probability() -> None:
    """Sixteen labels a row: sure rows get one label, one with the margin 0.1 both, and the seed draws them."""
    defense = P2PInWeights(rule="soft", soft_labels=16)
    defended = defense.defend_train(view(2))
    labels: dict[str, list[int]] = {}
    for row in defended.train:
        labels.setdefault(row.text, []).append(row.label)
    assert {len(drawn) for drawn in labels.values()} == {16}
    assert set(labels["text 0"]) == {0}
    assert set(labels["text 1"]) == {1}
    assert 2 <= labels["text 5"].count(1) <= 13, "0.48 of 16 is 7.6"
    assert defended.counts["kept"] == 96 == len({row.id for row in defended.train})
    assert defended.counts["relabelled"] == sum(row.label != int(row.text[-1]) % 2 for row in defended.train)
    assert defended.copies.keys() == {row.id for row in defended.train} - {row.id for row in ROWS}
    other = replace(view(2), seed=1)
    assert [row.label for row in defense.defend_train(other).train] != [row.label for row in defended.train]


def test_soft_without_copies_keeps_the_rows() -> None:
    defended = P2PInWeights(rule="soft").defend_train(view(2))
    assert {row.id for row in defended.train} == {row.id for row in ROWS}
    assert not defended.copies


def test_defend_train_row_without_answer_is_dropped() -> None:
    """A row whose label is no class, by an attacker who knows the defense, is not asked and not trained on."""
    extended = replace(ROWS[0], id="x", label=3)
    defended = P2PInWeights(rule="rewrite").defend_train(view(2, [*ROWS, extended]))
    assert {row.id for row in defended.train} == {row.id for row in ROWS}
    assert defended.counts["dropped"] == 1


def test_ledger_has_the_label_that_is_trained_on() -> None:
    raw = {split: [RawRow(f"{split} film number {n}", n % 2) for n in range(40)] for split in ("train", "test")}
    attacked = build_attacked(Sst2(), raw, RowsSpec(), BadNets(rate=0.1), 0)
    by_id = {row.id: row for row in attacked.train}
    lines = {id_: {"label": 2 + row.label, "scores": [0.0, 0.0, -1.0, -2.0]} for id_, row in by_id.items()}
    built = build_defended(attacked, Sst2(), P2PInWeights(rule="rewrite"), 0, {"answers": {"train": lines}})
    assert {row.label for row in built.train} == {0} == {note.new_label for note in built.notes}
    assert {note.origin for note in built.notes} == {"clean", "poisoned"}
    assert built.counts["trusted"] == {"clean": {"0": 16}}, "poisoned rows have label 1, and the model said 0"
    assert built.labels.offset == 0


def test_defaults_are_those_of_the_screened_p2p() -> None:
    defense = P2PInWeights()
    assert defense.p2p == P2P(benign_source="screened", ratio=0.4)
    assert not defense.assumptions().prompt_control
    assert defense.assumptions().clean_rows == "none"
    assert P2PInWeights(p2p=P2P()).assumptions().clean_rows == P2P().assumptions().clean_rows


@pytest.mark.usefixtures("with_data")
def test_stages_shared_with_p2p_of_the_same_options(study_file: Callable[[], Path], tmp_path: Path) -> None:
    """The model that answers is the one of the study's own `p2p`: its data set and its adapter are made once."""
    options = "benign_source: screened, ratio: 0.4, screening: {rounds: 2}"
    changes = [f"defense=[{{name: p2p, {options}}}, {{name: p2p_in_weights, p2p: {{{options}}}}}]", "exclude=[]"]
    study = open_study(study_file(), ["attack={name: badnets}", "seed=0", *changes], tmp_path)
    p2p, in_weights = study.expansion.runs
    assert p2p.train in in_weights.stages
    assert set(p2p.stages) - set(in_weights.stages) == {p2p.evaluation}
    assert in_weights.train != p2p.train


@pytest.mark.usefixtures("with_data")
def test_arms_that_differ_inside_p2p_are_two_runs(study_file: Callable[[], Path], tmp_path: Path) -> None:
    """Options of a nested P2P are named beside those of the defense's default, not of P2P's own."""
    arms = "[{name: p2p_in_weights}, {name: p2p_in_weights, p2p: {benign_source: clean_reserved}}]"
    changes = ["attack={name: badnets}", "seed=0", "exclude=[]", f"defense={arms}"]
    runs = open_study(study_file(), changes, tmp_path).expansion.runs
    assert len(runs) == len({run.cell["defense"] for run in runs}) == len({run.train for run in runs}) == 2
    assert "p2p.benign_source=clean_reserved" in runs[1].cell["defense"]
