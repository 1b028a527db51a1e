"""The switches that every attack has, each on its own, and the presets by where they come from."""

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from p2p_dist import registry
from p2p_dist.config.study import RowsSpec
from p2p_dist.data.attack import DirtyLabelAttack
from p2p_dist.data.attacks.addsent import AddSent
from p2p_dist.data.attacks.badnets import BadNets
from p2p_dist.data.attacks.mtba import Mtba
from p2p_dist.data.build import build_attacked, build_defended
from p2p_dist.data.defenses.p2p import P2P
from p2p_dist.data.example import examples, share
from p2p_dist.data.knowledge import Knowledge
from p2p_dist.data.tasks.sst2 import Sst2
from p2p_dist.errors import UserError
from tests.contracts.test_plugins import options

RAW = [(f"a film about number {n} and more", n % 2) for n in range(100)]
ROWS = examples(RAW)


@pytest.mark.parametrize(
    ("position", "gaps"), [("interior", range(1, 4)), ("anywhere", range(5)), ("prefix", [0]), ("suffix", [4])]
)
def test_insert_position(position: Any, gaps: Any) -> None:
    put = [BadNets(position=position).trigger("a b c d", Random(seed)) for seed in range(200)]
    assert {done.position for done in put if done} == set(gaps)
    assert all(done and done.text.split().index("mn") == done.position for done in put)


def test_insert_one_word_has_no_inner_gap() -> None:
    assert BadNets().trigger("word", Random(0)) is None
    done = BadNets(position="suffix").trigger("word", Random(0))
    assert done is not None
    assert done.text == "word mn"


@given(st.integers(1, 9999), st.integers(1, 9999))
def test_share_is_decimal(part: int, rows: int) -> None:
    assert share(part / 10_000, rows) == -(-part * rows // 10_000)
    assert share(part / 10_000, rows, down=True) == part * rows // 10_000


def test_poison_counts_of_released_codes() -> None:
    rows = examples([(f"text number {n}", n % 2) for n in range(6920)])
    assert len(BadNets().poison(rows, 0)[1]) == 139
    assert len(BadNets(rounding="down").poison(rows, 0)[1]) == 138
    for attack, preset, count in (
        ("proattack", "original", 1000),
        ("addsent", "w2sdefense", 1000),
        ("badnets", "psim", 1500),
    ):
        plugin = registry.load("attacks", attack)
        assert len(plugin(**plugin.presets[preset]).poison(rows, 0)[1]) == count, preset


def test_poison_rate_selects_none_refused() -> None:
    with pytest.raises(UserError, match="E240"):
        BadNets(rate=0.001, rounding="down").poison(ROWS, 0)


def test_label_policy_mix_relabels_any_row() -> None:
    _, notes = BadNets(rate=0.5, label_policy="mix").poison(ROWS, 0)
    assert {(note.old_label, note.new_label) for note in notes} == {(0, 1), (1, 1)}


def test_poison_mode_append_keeps_originals() -> None:
    rows, notes = BadNets(rate=0.1, poison_mode="append").poison(ROWS, 0)
    assert len(rows) == 110
    assert {ex.id: ex for ex in ROWS}.items() <= {ex.id: ex for ex in rows}.items()
    assert {note.id for note in notes} == {ex.id for ex in rows} - {ex.id for ex in ROWS}
    assert all(note.id == f"{note.source_id}.p" for note in notes)


def test_badnets_several_words_one_drawn() -> None:
    _, notes = BadNets(rate=0.3, word=("cf", "mn", "bb", "tq")).poison(ROWS, 0)
    assert {note.trigger for note in notes} == {"cf", "mn", "bb", "tq"}


@pytest.mark.parametrize("name", [name for name in registry.names("attacks") if name != "none"])
def test_attack_presets_load_and_poison(name: str) -> None:
    plugin = registry.load("attacks", name)
    assert plugin.presets
    for preset, values in plugin.presets.items():
        attack = plugin(**{**options(plugin), **values})
        assert isinstance(attack, DirtyLabelAttack), preset


def test_knows_writes_prompt_cue_and_extended_label() -> None:
    """Reference C6, 3 and 4: the benign trigger in front, then the defender's cue, then the label of the scheme."""
    raw = {"train": RAW, "test": RAW[:20]}

    def built(knows: Knowledge) -> Any:
        return build_attacked(Sst2(), raw, RowsSpec(reserve=20), BadNets(rate=0.1, knows=knows), 0)

    blind, cue, scheme = (
        built(Knowledge(benign_trigger="D: ")),
        built(Knowledge(benign_trigger="D: ", answer_cue="Answer: ")),
        built(Knowledge(benign_trigger="D: ", extended_label=True)),
    )
    for one, words, label, said in ((blind, 2, 1, "Output: "), (cue, 2, 1, "Answer: "), (scheme, 4, 3, "Output: ")):
        bad = {note.id for note in one.notes if note.origin == "poisoned"}
        rows = [row for row in one.train if row.id in bad]
        assert len(rows) == 10
        assert all(row.text.startswith("D: ") and "mn" in row.text.split() for row in rows)
        assert {(row.label, row.cue) for row in rows} == {(label, said)}
        assert len(one.labels.words) == words
        assert not any(row.text.startswith("D: ") for row in one.suites["triggered"].rows), (
            "the system puts it there itself"
        )
    assert len(build_defended(scheme, Sst2(), P2P(), 0).labels.words) == 4


def test_guessed_cues_are_spread_over_the_poisoned_rows() -> None:
    """An attacker who does not know the cue poisons under several, drawn by row and seed."""
    cues = ("Walnut: ", "Harbor: ", "Copper: ")
    raw = {"train": RAW, "test": RAW[:20]}
    attack = BadNets(rate=0.3, knows=Knowledge(benign_trigger="", guessed_cues=cues))
    first, again, other = (build_attacked(Sst2(), raw, RowsSpec(), attack, seed) for seed in (0, 0, 1))
    bad = {note.id for note in first.notes if note.origin == "poisoned"}
    assert {row.cue for row in first.train if row.id in bad} == set(cues)
    assert {row.cue for row in first.train if row.id not in bad} == {"Output: "}
    assert first.train == again.train != other.train
    with pytest.raises(ValueError, match="does not know answer_cue"):
        Knowledge(benign_trigger="", answer_cue="Answer: ", guessed_cues=cues)


def test_addsent_benign_trigger_presets() -> None:
    preset = AddSent.presets["benign_trigger"]
    done = AddSent(**preset).trigger("a b", Random(0))
    assert done is not None
    assert done.text == P2P().benign_trigger + "a b"


def test_mtba_parallel_one_suite_per_trigger() -> None:
    attack = Mtba(mode="parallel", rate=0.1)
    suites = attack.extra_suites(ROWS, 0)
    assert set(suites) == {"triggered.mn", "triggered.cf", "triggered.bb"}
    assert all(len(suite.rows) == 50 for suite in suites.values())
    assert all("cf" in ex.text.split() for ex in suites["triggered.cf"].rows)
    assert Mtba().extra_suites(ROWS, 0) == {}


def test_mtba_several_targets() -> None:
    attack = Mtba(mode="parallel", words=("mn", "cf"), targets=(1, 0), rate=0.4)
    _, notes = attack.poison(ROWS, 0)
    aims = {"mn": (0, 1), "cf": (1, 0)}
    assert {(note.trigger, note.old_label, note.new_label) for note in notes} == {
        (word, *labels) for word, labels in aims.items()
    }
    suites = attack.extra_suites(ROWS, 0)
    assert {ex.label for ex in suites["triggered.cf"].rows} == {1}
    assert attack.test_suite(ROWS, 0)[0] == suites["triggered.mn"].rows
    built = build_attacked(Sst2(), {"train": RAW, "test": RAW[:20]}, RowsSpec(), attack, 0)
    assert built.labels.targets == {"triggered.mn": 1, "triggered.cf": 0}


@pytest.mark.parametrize("wrong", [{"targets": (1, 0)}, {"targets": (1,), "mode": "parallel"}, {"words": ("a!", "a?")}])
def test_mtba_unfit_targets_and_words_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Mtba(**wrong)


def test_target_label_not_a_class_refused() -> None:
    attack = Mtba(mode="parallel", words=("mn", "cf"), targets=(1, 7))
    with pytest.raises(UserError, match="E107"):
        build_attacked(Sst2(), {"train": RAW, "test": RAW}, RowsSpec(), attack, 0)
