"""Whole words are scored as if each stood alone behind its prompt, and one forward reads the prompt once."""

import pytest
import torch

from p2p_dist.config.model import resolve_model
from p2p_dist.data.built import Suite
from p2p_dist.data.example import Row
from p2p_dist.evaluation.label_scoring import score_suite, scoring_of
from p2p_dist.modeling.base import Base, load_base
from p2p_dist.modeling.random_init import random_model
from p2p_dist.modeling.token_tree import tree_of
from p2p_dist.modeling.tokenization import Encoder
from p2p_dist.scheduling.study import configs_dir

IDENTITY = resolve_model("tiny", configs_dir() / "models").identity
ROWS = [Row(str(at), "a film about trees " * at + "x", at % 3, "Label: ", "Text: ") for at in range(1, 7)]
SUITE = Suite(ROWS, 0, triggered=False)
NUMBERS = [str(label) for label in range(13)]


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base(IDENTITY, {}, "float32")


def alone(words: list[str]) -> list[tuple[list[float], list[bool]]]:
    """The plain way: one forward of the untouched model per row and word."""
    model, tokenizer = random_model(IDENTITY["shape"])
    found = []
    for row in ROWS:
        choices = Encoder(tokenizer, words, 256).choices(row)
        scores, greedy = [], []
        for word in choices.words:
            with torch.no_grad():
                logits = model(torch.tensor([choices.prompt + word])).logits[0, len(choices.prompt) - 1 : -1].float()
            steps = torch.log_softmax(logits, -1)
            scores.append(float(steps.gather(1, torch.tensor(word)[:, None]).sum()))
            greedy.append(logits.argmax(-1).tolist() == word)
        found.append((scores, greedy))
    return found


@pytest.mark.parametrize(
    "words", [NUMBERS, ["no", "not", "yes"], ["aab", "aac", "ab"]], ids=["numbers", "closed", "open"]
)
def test_scores_are_those_of_each_word_alone(base: Base, words: list[str]) -> None:
    encoder = Encoder(base.tokenizer, words, 256)
    assert scoring_of(encoder, [SUITE]) == "whole_string"
    ticks: list[int] = []
    found = score_suite(base, encoder, SUITE, ticks.append)
    assert [row.id for row in found] == [row.id for row in ROWS]
    assert ticks[-1] == len(ROWS)
    for prediction, (scores, greedy) in zip(found, alone(words), strict=True):
        assert prediction.scores == pytest.approx(scores, abs=2e-5)
        assert (prediction.top is not None) == any(greedy)


def test_the_greedy_word_is_found(base: Base) -> None:
    """Words made of what the model says by itself: it is `top`, and no other word is."""
    (first, *_), tokenizer = ROWS, base.tokenizer
    model, _ = random_model(IDENTITY["shape"])
    ids = tokenizer("Text: " + first.text + "\nLabel: ")["input_ids"]
    with torch.no_grad():
        said = model.generate(torch.tensor([ids]), max_new_tokens=2, do_sample=False, pad_token_id=0)[
            0, len(ids) :
        ].tolist()
    choices = Encoder(tokenizer, ["ab", "ac"], 256).choices(first)
    from p2p_dist.evaluation.sequence_scoring import score_words

    other = [said[0], (said[1] + 1) % 256]
    choices.words[:] = [other, said]
    ((scores, top),) = score_words(base, [choices], lambda done: None)
    assert top == 1
    assert scores[1] > scores[0]


def test_one_token_words_are_scored_by_their_logits(base: Base) -> None:
    encoder = Encoder(base.tokenizer, ["0", "1", "2"], 256)
    assert scoring_of(encoder, [SUITE]) == "label_logits"
    by_logits = score_suite(base, encoder, SUITE)
    by_word = score_suite(base, encoder, SUITE, scoring="whole_string")
    assert [row.scores for row in by_logits] == [pytest.approx(row.scores, abs=2e-5) for row in by_word]
    assert [row.top for row in by_logits] == [row.top for row in by_word]


def test_words_that_begin_alike_share_their_tokens() -> None:
    tree = tree_of([[1, 9], [1, 0, 9], [1, 1, 9], [2, 9]])
    assert tree.tokens == [1, 0, 1, 2]
    assert tree.parents == [0, 1, 1, 0]
    assert tree.depths == [1, 2, 2, 1]
    assert [[tree.edges[edge] for edge in path] for path in tree.paths][1] == [(0, 1), (1, 0), (2, 9)]
