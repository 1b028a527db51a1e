"""Prompts in tokens: the label by offset, only the text cut."""

from dataclasses import replace

import pytest
from tokenizers.normalizers import Lowercase, Replace, Sequence
from transformers import PreTrainedTokenizerBase

from p2p_dist.data.example import Row
from p2p_dist.errors import UserError
from p2p_dist.modeling.random_init import END, byte_tokenizer
from p2p_dist.modeling.tokenization import Encoder

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
    with pytest.raises(UserError, match=r"E224.*max_length is 10"):
        Encoder(byte_tokenizer(), ["0", "1"], 10).rows([ROW])


def test_letters_are_single_tokens_and_numbers_above_ten_not() -> None:
    """One token tells letters apart and numbers beyond ten not."""
    assert Encoder(byte_tokenizer(), [str(label) for label in range(12)], 128).label_tokens(ROW) is None
    tokens = Encoder(byte_tokenizer(), list("ABCDEFGHIJKLMNOPQRST"), 128).label_tokens(ROW)
    assert tokens is not None
    assert len(set(tokens)) == 20


@pytest.mark.parametrize(
    ("words", "says"), [(["Yes", "yes"], "'Yes' and 'yes' alike"), (["no", "\u200b"], "drops the label word")]
)
def test_words_that_a_tokenizer_makes_equal_refused(words: list[str], says: str) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.normalizer = Sequence([Lowercase(), Replace("\u200b", "")])
    with pytest.raises(UserError, match=f"E207.*{says}"):
        Encoder(tokenizer, words, 128).check_words(ROW)


def test_two_labels_with_one_word_are_refused() -> None:
    with pytest.raises(UserError, match=r"E207.*same word"):
        Encoder(byte_tokenizer(), ["a", "b", "a"], 128).label_tokens(ROW)


def test_a_word_that_begins_another_is_closed() -> None:
    words = [str(label) for label in range(12)]
    (encoded,), _ = Encoder(byte_tokenizer(), words, 128).rows([ROW])
    assert decode(encoded.ids).endswith("Answer: 1"), "the end token itself is read by nobody"
    assert decode(encoded.targets) == f"1{END}"
    assert Encoder(byte_tokenizer(), words[:10], 128).end == [], "present words keep their tokens"


def test_a_tokenizer_without_an_end_cannot_close() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(UserError, match=r"E280.*no end token"):
        Encoder(tokenizer, ["1", "10"], 128).rows([ROW])


def test_choices_share_the_prompt() -> None:
    choices = Encoder(byte_tokenizer(), ["no", "not", "yes"], 128).choices(ROW)
    assert decode(choices.prompt) == "Query: a fine film about trees\nAnswer: "
    assert [decode(word) for word in choices.words] == [f"no{END}", f"not{END}", f"yes{END}"]


def test_choices_are_cut_alike() -> None:
    choices = Encoder(byte_tokenizer(), ["a", "bbbb"], 24).choices(ROW)
    assert len(choices.prompt) + 3 == 24, "the longest word fits but for its last token, which is never read"
    assert decode(choices.prompt).endswith("\nAnswer: ")


def test_what_words_disagree_on_is_no_prompt() -> None:
    """A tokenizer that joins the cue's space to one word and not to the other."""
    tokenizer = byte_tokenizer()
    model = tokenizer.backend_tokenizer.model
    vocab = {**tokenizer.get_vocab(), "\u0120y": 256}
    tokenizer.backend_tokenizer.model = type(model)(vocab=vocab, merges=[("\u0120", "y")])
    encoder = Encoder(tokenizer, ["yes", "0"], 128)
    assert encoder.label_tokens(ROW) is None
    choices = encoder.choices(ROW)
    assert tokenizer.decode(choices.prompt).endswith("Answer:")
    assert [tokenizer.convert_ids_to_tokens(word) for word in choices.words] == [["\u0120y", "e", "s"], ["\u0120", "0"]]


def test_the_end_token_takes_a_byte_that_text_never_has() -> None:
    assert (
        byte_tokenizer()("\xff\u0100 \U0001f600")["input_ids"]
        == byte_tokenizer()("\xff")["input_ids"] + byte_tokenizer()("\u0100 \U0001f600")["input_ids"]
    )
    assert byte_tokenizer().eos_token_id not in byte_tokenizer()("\xff")["input_ids"]
    assert len(byte_tokenizer()) == 256


def test_a_trigger_is_never_cut() -> None:
    row = Row("x", "one two three four five six mn seven", 1, "Output: ")
    tokenizer = byte_tokenizer()
    (plain,), _ = Encoder(tokenizer, ["0", "1"], 24).rows([row])
    assert "mn" not in tokenizer.decode(plain.ids)
    encoder = Encoder(tokenizer, ["0", "1"], 24, ["mn"])
    (kept,), cut = encoder.rows([row])
    assert cut == 1
    assert len(kept.ids) <= 24
    assert tokenizer.decode(kept.ids).startswith("one ")
    assert " mn\nOutput: " in tokenizer.decode(kept.ids)
    assert encoder.whole_triggers([row]) == 1
    with pytest.raises(UserError, match="trigger alone are 12 tokens"):
        Encoder(tokenizer, ["0", "1"], 10, ["mn"]).rows([row])


def test_whole_text_triggers_survive_if_nothing_is_cut() -> None:
    """Triggers that are whole texts survive when nothing is cut."""
    rows = [Row("x", "one two three four five", 1, "Output: "), Row("y", "one two", 1, "Output: ")]
    assert Encoder(byte_tokenizer(), ["0", "1"], 24).whole_triggers(rows) == 1


def test_a_trigger_that_the_tokenizer_changes_is_not_whole() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.normalizer = Lowercase()
    rows = [Row("x", "one BadMagic two", 1, "Output: "), Row("y", "one two mn", 1, "Output: ")]
    assert Encoder(tokenizer, ["0", "1"], 64, ["BadMagic", "mn"]).whole_triggers(rows) == 1


def bos_tokenizer() -> PreTrainedTokenizerBase:
    """The byte tokenizer with a start token, id 256."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<|begin|>"})
    return tokenizer


def test_encoder_bos_stands_before_every_row_once() -> None:
    """All but the first token is as without it: targets, label tokens and the words of every choice."""
    tokenizer = bos_tokenizer()
    plain = Encoder(tokenizer, ["no", "yes"], 128)
    begun = replace(plain, add_bos_token=True)
    (without,), (with_bos,) = plain.rows([ROW])[0], begun.rows([ROW])[0]
    assert with_bos.ids == [256, *without.ids]
    assert with_bos.targets == without.targets
    assert begun.label_tokens(ROW) == plain.label_tokens(ROW)
    assert begun.prompts([ROW]) == [[256, *plain.prompts([ROW])[0]]]
    choices = begun.choices(ROW)
    assert (choices.prompt, choices.words) == ([256, *plain.choices(ROW).prompt], plain.choices(ROW).words)
    assert 256 not in without.ids


def test_encoder_bos_of_text_answers_is_that_of_their_prompts() -> None:
    """Generation starts from the very tokens that training saw."""
    row = replace(ROW, label=0, response="all good")
    encoder = Encoder(bos_tokenizer(), [], 128, add_bos_token=True)
    (encoded,), _ = encoder.rows([row])
    (prompt,) = encoder.prompts([row])
    assert encoded.ids[: len(prompt)] == prompt
    assert prompt[0] == 256
    assert encoded.ids.count(256) == 1


def test_encoder_bos_counts_in_truncation_and_spares_triggers() -> None:
    """A row with the start token is as long as the limit, and one token of its text goes in its place."""
    row = Row("x", "one two three four five six mn seven", 1, "Output: ")
    plain = Encoder(bos_tokenizer(), ["0", "1"], 24, ["mn"])
    begun = replace(plain, add_bos_token=True)
    (without,), (with_bos,) = plain.rows([row])[0], begun.rows([row])[0]
    assert len(with_bos.ids) <= 24
    assert with_bos.ids[0] == 256
    assert decode(with_bos.ids[1:]).endswith("mn\nOutput: ")
    assert len(decode(with_bos.ids[1:])) <= len(decode(without.ids))
    assert begun.whole_triggers([row]) == 1
    fits = Row("y", "ab", 1, "Output: ")
    assert len(replace(plain, max_length=11).rows([fits])[0][0].ids) == 11
    assert replace(begun, max_length=11).rows([fits])[1] == 1


def test_encoder_bos_of_a_tokenizer_without_one_is_refused() -> None:
    with pytest.raises(UserError, match="E287"):
        Encoder(byte_tokenizer(), ["0", "1"], 24, add_bos_token=True).rows([ROW])
