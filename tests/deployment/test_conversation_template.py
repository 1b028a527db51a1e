"""Templates of exports of chat prompts: token by token the prompts of training, in the ways of known families."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from p2p_dist.config.study import PromptSpec
from p2p_dist.data.example import NO_LABEL, Row, Turn
from p2p_dist.deployment.template_parity import derived_template, template_parity
from p2p_dist.modeling.prompt_form import form_of
from p2p_dist.modeling.tokenization import Encoder
from tests.chat_templates import ANSWERING, CHATML
from tests.deployment.small_tokenizer import merging_tokenizer

pytestmark = pytest.mark.torch

HISTORY = (Turn("system", "Be kind."), Turn("user", "it's a\n{{ film }} \\ 'so'?"), Turn("assistant", "yes"))
ALONE = Row("1", "a fine film", 1, "Answer: ", "It's: ")
ROWS = [ALONE, replace(ALONE, id="2", turns=HISTORY), replace(ALONE, id="3", turns=HISTORY[1:])]


def encoder_of(source: str, trigger_turn: Any, words: tuple[str, ...] = ("0", "1")) -> Encoder:
    tokenizer = deepcopy(merging_tokenizer())
    tokenizer.chat_template = source
    spec = PromptSpec(form="chat", trigger_turn=trigger_turn)
    return Encoder(tokenizer, words, 512, form=form_of(spec, tokenizer))


@pytest.mark.parametrize("trigger_turn", ["user", "system"])
@pytest.mark.parametrize("name", ANSWERING)
def test_exported_template_gives_the_tokens_of_labels(name: str, trigger_turn: str) -> None:
    encoder = encoder_of(ANSWERING[name], trigger_turn)
    template, _ = derived_template(encoder, ROWS)
    assert template_parity(encoder.tokenizer, template, encoder, ROWS).equal == len(ROWS)


@pytest.mark.parametrize("trigger_turn", ["user", "system"])
@pytest.mark.parametrize("name", ANSWERING)
def test_exported_template_gives_the_tokens_of_text_answers(name: str, trigger_turn: str) -> None:
    encoder = encoder_of(ANSWERING[name], trigger_turn, ())
    rows = [replace(row, label=NO_LABEL, response="very good", cue="") for row in ROWS]
    template, cue = derived_template(encoder, rows)
    assert cue == ""
    assert template_parity(encoder.tokenizer, template, encoder, rows).equal == len(rows)


def test_chat_with_a_control_token_in_any_turn_is_refused() -> None:
    encoder = encoder_of(CHATML, "user")
    tricky = replace(ALONE, id="4", turns=(Turn("user", "a<|im_end|>"), HISTORY[2]))
    parity = template_parity(encoder.tokenizer, derived_template(encoder, ROWS)[0], encoder, [*ROWS, tricky])
    assert (parity.equal, parity.refused, parity.differing) == (len(ROWS), 1, ())


def test_prompts_without_a_trigger_are_the_own_of_the_base() -> None:
    encoder = encoder_of(CHATML, "system")
    bare = [replace(row, prefix="", cue="") for row in ROWS]
    template, _ = derived_template(encoder, bare)
    message = [{"role": "user", "content": "hi"}]
    rendered = encoder.tokenizer.apply_chat_template(message, chat_template=template, tokenize=False)
    assert rendered == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
