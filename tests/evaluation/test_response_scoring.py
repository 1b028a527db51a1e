"""Responses behind prompts that are not their own are scored as if each stood alone behind the prompt."""

from typing import Any

import pytest
import torch

from p2p_dist.config.model import resolve_model
from p2p_dist.evaluation.response_scoring import Asked, score_responses
from p2p_dist.evaluation.sequence_scoring import score_words
from p2p_dist.modeling.base import Base, load_base
from p2p_dist.modeling.forward import answer_states
from p2p_dist.modeling.random_init import random_model
from p2p_dist.modeling.token_tree import pack_trees, tree_of
from p2p_dist.modeling.tokenization import Choices
from p2p_dist.scheduling.study import configs_dir
from tests.zoo.cases import DYNAMIC, LONG
from tests.zoo.check import log_likelihood, tiny_base
from tests.zoo.families import tiny_config, tiny_model

IDENTITY = resolve_model("tiny", configs_dir() / "models").identity
ASKED = [
    Asked([5, 6, 7], [[8, 9, 1], [8, 9, 2, 3], [8, 9, 1]]),
    Asked(list(range(20, 60)), [[4], [4, 5, 6, 7, 8]]),
    Asked([9, 9], [[1], [2], [3], [3, 1]]),
    Asked(list(range(100, 119)), [list(range(50, 90)), list(range(50, 70))]),
]


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base(IDENTITY, {}, "float32")


def alone(asked: Asked) -> list[float]:
    """The plain way: one forward of the untouched model per response."""
    model, _ = random_model(IDENTITY["shape"])
    scores = []
    for response in asked.responses:
        with torch.no_grad():
            logits = model(torch.tensor([[*asked.prompt, *response]])).logits[0, len(asked.prompt) - 1 : -1].float()
        steps = torch.log_softmax(logits, -1).gather(1, torch.tensor(response)[:, None])
        scores.append(float(steps.sum()))
    return scores


def test_scores_are_those_of_each_response_alone(base: Base) -> None:
    """Prompts and trees of many lengths in one batch; equal responses, and one that begins another."""
    ticks: list[int] = []
    scores = score_responses(base, ASKED, ticks.append)
    assert scores == [pytest.approx(alone(one), abs=5e-5) for one in ASKED]
    assert scores[0][0] == scores[0][2]
    assert ticks[-1] == len(ASKED)


def test_scores_in_pieces_of_logits(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = score_responses(base, ASKED, lambda done: None)
    monkeypatch.setattr("p2p_dist.evaluation.response_scoring.LOGITS_AT_ONCE", 3)
    assert score_responses(base, ASKED, lambda done: None) == [pytest.approx(row, abs=1e-5) for row in whole]


def test_rows_that_are_computed_one_by_one(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2p_dist.evaluation.response_scoring.takes_trees_apart", lambda model, longest: True)
    scores = score_responses(base, ASKED, lambda done: None)
    assert scores == [pytest.approx(alone(one), abs=5e-5) for one in ASKED]


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("phi3", LONG),
        ("llama", DYNAMIC),
        ("gpt2", {"n_positions": 16}),
        ("llama4_text", {"attention_chunk_size": 16}),
        ("gemma2", {"sliding_window": 6}),
    ],
)
def test_tree_longer_than_the_model_reads(family: str, changes: dict[str, Any]) -> None:
    """Every response fits behind the prompt, and all of them together are past the 16 tokens at which frequencies of
    positions change, positions end, or chunks do."""
    prompt, responses = [5, 6, 7, 8], [[10, 11, 12, 13], [20, 21, 22, 23], [30, 31, 32], [40, 41, 42, 43, 44], [50, 51]]
    plain = tiny_model(tiny_config(family, **changes))
    expected = [log_likelihood(plain, prompt, response) for response in responses]
    base = tiny_base(family, **changes)
    (scores,) = score_responses(base, [Asked(prompt, responses)], lambda done: None)
    assert scores == pytest.approx(expected, abs=5e-5)
    ((words, _),) = score_words(base, [Choices("", prompt, responses)], lambda done: None)
    assert words == pytest.approx(expected, abs=5e-5)
    tree = tree_of(responses)
    if family in ("phi3", "llama"):
        batch = pack_trees([prompt], [tree])
        with pytest.raises(ValueError, match="tree"):
            answer_states(base.model, batch.ids, batch.positions, batch.packed, batch.answers)
