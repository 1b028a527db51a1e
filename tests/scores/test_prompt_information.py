"""Which answers are scored behind which prompts, and prompts that are cut for other rows' answers."""

from types import SimpleNamespace
from typing import Any

import pytest

from p2p_dist.config.model import resolve_model
from p2p_dist.config.score_methods import PromptInformation
from p2p_dist.data.example import NO_LABEL, Row
from p2p_dist.errors import UserError
from p2p_dist.modeling.random_init import random_model
from p2p_dist.modeling.tokenization import Encoder
from p2p_dist.scheduling.study import configs_dir
from p2p_dist.scores.prompt_information import answers_by_prompt, prompts_before, score

ROWS = [Row(str(at), "a box of pens " * at, NO_LABEL, "Output: ", response="1") for at in (1, 3)]
MANY = [Row(f"{at:03d}", f"text {at}", NO_LABEL, "Output: ", response=f"answer {at}") for at in range(40)]


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


def test_every_answer_is_scored_behind_other_prompts_once() -> None:
    donors = answers_by_prompt(MANY, 4, seed=0)
    assert [of_prompt[0] for of_prompt in donors] == list(range(40)), "the first is the prompt's own answer"
    asked = [(prompt, donor) for prompt, of_prompt in enumerate(donors) for donor in of_prompt]
    assert len(set(asked)) == 40 * 5
    assert all(sum(donor == at for _, donor in asked) == 5 for at in range(40))
    assert donors != answers_by_prompt(MANY, 4, seed=1)
    by_id = {MANY[at].id: {MANY[donor].id for donor in of_prompt} for at, of_prompt in enumerate(donors)}
    back = MANY[::-1]
    again = answers_by_prompt(back, 4, seed=0)
    assert {back[at].id: {back[donor].id for donor in of_prompt} for at, of_prompt in enumerate(again)} == by_id


def test_too_few_rows_that_no_plan_knew_are_refused() -> None:
    context: Any = SimpleNamespace(built=SimpleNamespace(train=MANY[:4]))
    with pytest.raises(UserError, match=r"E205.*4 other rows; the training rows are 4 in all.*Try: "):
        score(context, PromptInformation(others=4, agreement=0.5))
