"""Drift of embeddings: words of the tokens that moved are suspected, and the model stays as it is."""

import pytest
import torch

from p2p_dist.config.score_methods import EmbeddingDrift
from p2p_dist.scores.embedding_drift import score, tokens_of_words
from tests.scores.test_attribution import context


def test_tokens_of_words_overlap_them() -> None:
    assert tokens_of_words("good film", [(0, 4), (4, 9)], [1, 2]) == [("good", (1,)), ("film", (2,))]
    spans = [(-3, 0), (0, 2), (2, 4), (4, 7), (7, 8)]
    assert tokens_of_words("good mn", spans, [9, 1, 2, 3, 4]) == [("good", (1, 2)), ("mn", (3,))]


@pytest.mark.torch
def test_embedding_drift_suspects_words_of_moved_tokens() -> None:
    given = context()
    before = {name: weight.clone() for name, weight in given.base.model.named_parameters()}
    method = EmbeddingDrift(share=0.99, learning_rate=1e-3, batch=2)
    lines = score(given, method)
    words = {line["id"]: line["drift"] for line in lines if line["set"] == "words"}
    assert set(words) == {"a", "fine", "film", "so", "dull", "it", "hurts"}  # all tokens are suspected
    assert all(float(str(drift)) > 0 for drift in words.values())
    few = score(given, method.model_copy(update={"share": 0.001}))
    assert [line["suspected"] for line in few if line["set"] == "tokens"] == [1]
    assert len([line for line in few if line["set"] == "words"]) <= 1  # of one byte, "a" alone is a word
    for name, weight in given.base.model.named_parameters():
        assert torch.equal(weight, before[name]), name
