"""Prompts that are cut for other rows' answers."""

import pytest

from p2p_dist.config.model import resolve_model
from p2p_dist.data.example import NO_LABEL, Row
from p2p_dist.errors import UserError
from p2p_dist.modeling.random_init import random_model
from p2p_dist.modeling.tokenization import Encoder
from p2p_dist.scheduling.study import configs_dir
from p2p_dist.scores.prompt_information import prompts_before

ROWS = [Row(str(at), "a box of pens " * at, NO_LABEL, "Output: ", response="1") for at in (1, 3)]


def encoder(max_length: int) -> Encoder:
    _, tokenizer = random_model(resolve_model("tiny", configs_dir() / "models").identity["shape"])
    return Encoder(tokenizer, [], max_length)


def test_prompts_leave_room_for_the_longest_answer() -> None:
    """One token is a byte: the short prompt fits beside 12 tokens, the long one is cut at its text alone."""
    whole = encoder(100).prompts(ROWS)
    short, long = prompts_before(encoder(40), ROWS, [12, 12])
    assert short == whole[0]
    assert len(long) == 29 < len(whole[1])
    assert long[-8:] == whole[1][-8:], "the cue stays"


def test_answer_that_never_fits_is_refused() -> None:
    with pytest.raises(UserError, match=r"E224.*an answer of 38 tokens"):
        prompts_before(encoder(40), ROWS, [12, 38])
