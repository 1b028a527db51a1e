"""Responses behind prompts that are not their own are scored as if each stood alone behind the prompt."""

from dataclasses import replace

import pytest
import torch

from p2p_dist.config.model import resolve_model
from p2p_dist.evaluation.response_scoring import Asked, score_responses
from p2p_dist.modeling.base import Base, load_base
from p2p_dist.modeling.random_init import random_model
from p2p_dist.scheduling.study import configs_dir

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
    monkeypatch.setattr("p2p_dist.evaluation.response_scoring.takes_rows_apart", lambda model, longest: True)
    scores = score_responses(replace(base), ASKED, lambda done: None)
    assert scores == [pytest.approx(alone(one), abs=5e-5) for one in ASKED]
