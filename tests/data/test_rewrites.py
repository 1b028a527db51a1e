"""What counts as a rewrite, which batches are made, and an unfinished table."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p_dist.data.rewrites import SUBORDINATE, Recipe, Unfinished, answer_of, batches, row_of
from p2p_dist.errors import UserError

RECIPE = Recipe("m 123", "Rewrite.", SUBORDINATE, 8)


@pytest.mark.parametrize(
    ("said", "answer"), [('\n "When b , a ." \nmore', "When b , a ."), ("a", "a"), ("", ""), ('"', '"'), ("“x”", "x")]
)
def test_answer_of_first_line_without_quotes(said: str, answer: str) -> None:
    assert answer_of(said) == answer


@pytest.mark.parametrize(
    ("said", "finished", "good"),
    [
        ("When it rains, I read.", True, True),
        ("When it rains, I", False, False),
        ("I read.", True, False),
        ("", True, False),
        ("as is, so be it", True, False),
    ],
)
def test_row_of_good_and_failed_rewrites(said: str, finished: bool, good: bool) -> None:
    assert row_of("as is, so be it", said, finished, RECIPE)["ok"] is good


@given(st.permutations(["a", "bb", "ccc", "dd", " a ", "", "eeee"]), st.integers(1, 4))
def test_batches_independent_of_order(texts: list[str], size: int) -> None:
    made = batches(texts, size)
    assert made == batches(sorted(texts), size)
    assert sorted(text for batch in made for text in batch) == ["a", "bb", "ccc", "dd", "eeee"]
    assert max(map(len, made)) <= size


def test_unfinished_table_resumes(tmp_path: Path) -> None:
    table = tmp_path / "t.jsonl"
    assert Unfinished(table, RECIPE, 2).read() == []
    rows = [row_of("a", "When b, a.", True, RECIPE)]
    one = Unfinished(table, RECIPE, 2)
    one.append(rows)
    with one.path.open("a") as file:
        file.write('{"key": "cut')
    assert Unfinished(table, RECIPE, 2).read() == rows
    one.append(rows)
    assert len(Unfinished(table, RECIPE, 2).read()) == 2, "what a kill has cut is gone"
    with pytest.raises(UserError, match=r"E242.*batch"):
        Unfinished(table, RECIPE, 3).read()
