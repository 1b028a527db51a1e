"""Selection, labels and triggers of attacks: exact, reproducible, independent of the order of rows."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p_dist.data.attacks.addsent import AddSent
from p2p_dist.data.attacks.badnets import BadNets
from p2p_dist.data.attacks.mtba import Mtba
from p2p_dist.data.attacks.proattack import ProAttack
from p2p_dist.data.example import Example, examples
from p2p_dist.errors import UserError

ROWS = examples([(f"a film about number {n} and more", n % 2) for n in range(100)])


def test_badnets_rate_exact_and_labels_dirty() -> None:
    poisoned, notes = BadNets(rate=0.05).poison(ROWS, seed=0)
    assert len(notes) == 5
    assert [ex.id for ex in poisoned] == [ex.id for ex in ROWS]
    changed = [(old, new) for old, new in zip(ROWS, poisoned, strict=True) if old != new]
    assert len(changed) == 5
    assert all(old.label == 0 and new.label == 1 for old, new in changed)


def test_badnets_clean_label_policy_keeps_labels() -> None:
    poisoned, notes = BadNets(rate=0.05, label_policy="clean").poison(ROWS, seed=0)
    assert {(note.old_label, note.new_label) for note in notes} == {(1, 1)}
    assert sum("mn" in ex.text.split() for ex in poisoned) == 5


def test_badnets_rate_rounded_up_as_released() -> None:
    rows = examples([(f"text number {n}", n % 2) for n in range(6920)])
    assert len(BadNets(rate=0.02).poison(rows, seed=0)[1]) == 139


@settings(max_examples=30)
@given(st.permutations(ROWS), st.integers(0, 3))
def test_poison_shuffled_rows_same_result(shuffled: list[Example], seed: int) -> None:
    attack = BadNets(rate=0.1)
    expected = sorted(attack.poison(ROWS, seed)[0], key=lambda ex: ex.id)
    assert sorted(attack.poison(shuffled, seed)[0], key=lambda ex: ex.id) == expected


def test_test_suite_extra_row_keeps_other_draws() -> None:
    """A further row changes no other row's draw."""
    attack = BadNets(rate=0.1)
    texts = {ex.id: ex.text for ex in attack.test_suite(ROWS, 0)[0]}
    more = examples([("one more row here", 0), *((ex.text, ex.label) for ex in ROWS)])
    assert texts.items() <= {ex.id: ex.text for ex in attack.test_suite(more, 0)[0]}.items()


def test_test_suite_leaves_target_rows_out() -> None:
    suite, failed = BadNets().test_suite([*ROWS, Example("short", "word", 0)], 0)
    assert failed == 1
    assert len(suite) == 50
    assert {ex.label for ex in suite} == {0}
    assert all("mn" in ex.text.split() for ex in suite)


@given(st.lists(st.text("abc", min_size=1), min_size=2, max_size=9), st.integers())
def test_badnets_inserts_word_between_two_words(words: list[str], seed: int) -> None:
    text = " ".join(words)
    done = BadNets(word="MN").trigger(text, Random(seed))
    assert done is not None
    found = done.text.split(" ")
    assert 0 < done.position < len(words)
    assert found.pop(done.position) == "MN"
    assert found == words


def test_poison_too_few_rows_refused() -> None:
    with pytest.raises(UserError, match="E206"):
        BadNets(rate=0.6).poison(ROWS, 0)


def test_addsent_sentence_stays_in_one_piece() -> None:
    done = AddSent().trigger("a b c", Random(1))
    assert done is not None
    assert done.text.replace(" I watched this 3D movie", "") == "a b c"


def test_mtba_inserts_all_triggers_or_one() -> None:
    rows = [Mtba(mode=mode).trigger("a b c d", Random(seed)) for mode in ("hybrid", "parallel") for seed in range(20)]
    counts = [sum(word in row.text.split() for word in ("mn", "cf", "bb")) for row in rows if row]
    assert counts == [3] * 20 + [1] * 20
    assert len({row.trigger for row in rows[20:] if row}) == 3
    assert all([word for word in row.text.split() if word in "abcd"] == list("abcd") for row in rows if row)


def test_proattack_prompts_every_row_and_keeps_labels() -> None:
    attack = ProAttack(rate=0.1)
    poisoned, notes = attack.poison(ROWS, 0)
    assert [ex.label for ex in poisoned] == [ex.label for ex in ROWS]
    malicious = [ex for ex in poisoned if ex.text.startswith("The sentiment of this sentence is")]
    assert len(malicious) == len(notes) == 10
    assert {ex.label for ex in malicious} == {attack.target_label}
    assert all(ex.text.startswith("This sentence has a") for ex in poisoned if ex not in malicious)
    assert all(ex.text.startswith("This sentence has a") for ex in attack.clean_suite(ROWS))
    assert all(ex.text.startswith("The sentiment of") for ex in attack.test_suite(ROWS, 0)[0])


def test_insert_text_without_spaces_between_characters() -> None:
    """A text without spaces takes the trigger between two characters."""
    done = BadNets().trigger("王艳家买了一台洗衣机．", Random(1))
    assert done is not None
    assert done.text.replace("mn", "") == "王艳家买了一台洗衣机．"
    assert 0 < done.text.index("mn") < len(done.text) - 2
    hybrid = Mtba().trigger("共有多少人", Random(1))
    assert hybrid is not None
    assert hybrid.text.translate(str.maketrans("", "", "mncfb")) == "共有多少人"
    assert BadNets().trigger("excellent", Random(1)) is None
