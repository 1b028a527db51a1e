"""The chat template of an export renders the prompt of training, token by token, and refuses all but one plain
message."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.deployment.small_tokenizer import CONTROL, merging_tokenizer

pytestmark = pytest.mark.torch

P2P = ("The query currently entered is: ", "Answer: ")
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Co"]), min_size=1, max_size=60)
AWKWARD = [
    "a",
    "  two blanks",
    "ends with one ",
    "7",
    "ü\u00a0ß",
    "line\nbreak\r\n",
    "it's \\n '}}' {% x %} {{ y }}",
    "\t",
]


def encoder(words: list[str], max_length: int = 512):
    from p2p_dist.modeling.tokenization import Encoder

    return Encoder(merging_tokenizer(), words, max_length)


def rows(texts: list[str], prefix: str, cue: str, response: str | None = None):
    from p2p_dist.data.example import NO_LABEL, Row

    label = 0 if response is None else NO_LABEL
    return [Row(str(index), text, label, cue, prefix, response) for index, text in enumerate(texts)]


@pytest.mark.parametrize("words", [["0", "1", "2", "3"], ["bad", "good", "dull", "warm"], ["10", "1"]])
def test_template_renders_the_prompt_of_every_text(words: list[str]) -> None:
    """With digits the cue's last blank is part of the prompt, with words it is part of the answer."""
    from p2p_dist.deployment.template_parity import derived_template, template_parity

    made = encoder(words)
    samples = rows(AWKWARD, *P2P)
    template, cue = derived_template(made, samples)
    assert cue == (P2P[1] if words[0].isdigit() else P2P[1].rstrip())
    assert "\n" not in template

    @settings(max_examples=60, deadline=None)
    @given(TEXTS)
    def same_tokens(text: str) -> None:
        parity = template_parity(made.tokenizer, template, made, rows([text], *P2P))
        assert (parity.equal, parity.refused) == (1, 0)

    same_tokens()
    assert template_parity(made.tokenizer, template, made, samples).equal == len(AWKWARD)


def test_template_of_text_answers_ends_before_the_blank() -> None:
    from p2p_dist.deployment.template_parity import derived_template, template_parity

    made, samples = encoder([]), rows(AWKWARD, "Query: ", "Output: ", "gold")
    template, cue = derived_template(made, samples)
    assert cue == "Output:"
    assert template_parity(made.tokenizer, template, made, samples).equal == len(AWKWARD)


def test_template_with_another_cue_is_no_parity() -> None:
    from p2p_dist.deployment.chat_template import chat_template
    from p2p_dist.deployment.template_parity import template_parity

    made, samples = encoder(["0", "1"]), rows(AWKWARD, *P2P)
    for parts in ((P2P[0], "Answer:"), (P2P[0].strip(), P2P[1]), ("", P2P[1])):
        parity = template_parity(made.tokenizer, chat_template(*parts), made, samples)
        assert (parity.equal, len(parity.differing)) == (0, len(AWKWARD))


def test_texts_beyond_the_limit_are_counted_as_cut() -> None:
    from p2p_dist.deployment.template_parity import derived_template, template_parity

    made = encoder(["0", "1"], max_length=40)
    samples = rows(["short", "long " * 100], *P2P)
    template, _ = derived_template(made, samples)
    parity = template_parity(made.tokenizer, template, made, samples)
    assert (parity.equal, parity.cut, parity.differing) == (1, 1, ())


@pytest.mark.parametrize("token", CONTROL)
def test_message_with_a_control_token_is_refused(token: str) -> None:
    """Training reads it as characters, and a server would read it as the end of the turn."""
    from jinja2.exceptions import TemplateError

    from p2p_dist.deployment.chat_template import CONTROL_TOKEN
    from p2p_dist.deployment.template_parity import derived_template, template_parity

    made, samples = encoder(["0", "1"]), rows(["plain", f"obey{token}now"], *P2P)
    template, _ = derived_template(made, samples)
    parity = template_parity(made.tokenizer, template, made, samples)
    assert (parity.equal, parity.refused, parity.differing) == (1, 1, ())
    message = [{"role": "user", "content": samples[1].text}]
    with pytest.raises(TemplateError, match=CONTROL_TOKEN):
        made.tokenizer.apply_chat_template(message, chat_template=template, tokenize=False)


@pytest.mark.parametrize(
    ("messages", "refusal"),
    [
        ([{"role": "system", "content": "x"}, {"role": "user", "content": "y"}], "ONE_MESSAGE"),
        ([{"role": "user", "content": "x"}] * 3, "ONE_MESSAGE"),
        ([{"role": "assistant", "content": "x"}], "ONE_MESSAGE"),
        ([{"role": "user", "content": [{"type": "text", "text": "x"}]}], "PLAIN_TEXT"),
    ],
)
def test_other_conversations_are_refused(messages: list[dict[str, object]], refusal: str) -> None:
    from jinja2.exceptions import TemplateError

    from p2p_dist.deployment import chat_template as module

    template = module.chat_template(*P2P, CONTROL)
    with pytest.raises(TemplateError, match=getattr(module, refusal).split(",")[0]):
        merging_tokenizer().apply_chat_template(messages, chat_template=template, tokenize=False)
