"""Prompts in tokens: the label by offset, only the text cut."""

import pytest

from p2p_dist.data.example import Row
from p2p_dist.errors import UserError
from p2p_dist.modeling.encode import Encoder
from p2p_dist.modeling.random_init import byte_tokenizer

ROW = Row("1", "a fine film about trees", 1, "Answer: ", "Query: ")


def decode(ids: list[int]) -> str:
    return byte_tokenizer().decode(ids)


def test_prompt_and_label() -> None:
    (encoded,), cut = Encoder(byte_tokenizer(), ["0", "1"], 128).rows([ROW])
    assert cut == 0
    assert decode(encoded.ids) == "Query: a fine film about trees\nAnswer: "
    assert decode(encoded.targets) == "1"


def test_words_of_several_tokens_end_before_their_last() -> None:
    (encoded,), _ = Encoder(byte_tokenizer(), ["no", "yes"], 128).rows([ROW])
    assert decode(encoded.ids).endswith("Answer: ye")
    assert decode(encoded.targets) == "yes"


def test_only_the_text_is_cut() -> None:
    (encoded,), cut = Encoder(byte_tokenizer(), ["0", "1"], 24).rows([ROW])
    assert cut == 1
    assert decode(encoded.ids) == "Query: a fine f\nAnswer: "[: len(encoded.ids)]
    assert decode(encoded.ids).startswith("Query: a fine")
    assert decode(encoded.ids).endswith("\nAnswer: ")
    assert len(encoded.ids) == 24


def test_no_room_for_any_text() -> None:
    with pytest.raises(UserError, match=r"E207.*max_length is 10"):
        Encoder(byte_tokenizer(), ["0", "1"], 10).rows([ROW])


def test_labels_that_begin_alike_are_refused() -> None:
    with pytest.raises(UserError, match="share first tokens"):
        Encoder(byte_tokenizer(), [str(label) for label in range(12)], 128).label_tokens(ROW)
    assert len(set(Encoder(byte_tokenizer(), list("ABCDEFGHIJKLMNOPQRST"), 128).label_tokens(ROW))) == 20
