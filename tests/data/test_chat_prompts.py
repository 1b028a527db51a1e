"""Prompts of the form chat: every turn in full, the trigger and the cue in their places, and templates that fail it."""

import pytest

from p2p_dist.config.study import PromptSpec
from p2p_dist.data.chat_prompts import ChatForm, check_template, outline
from p2p_dist.data.example import Row, Turn
from p2p_dist.errors import UserError
from p2p_dist.model_files.chat_template import ChatTemplate
from tests import chat_templates as templates

HISTORY = (Turn("system", "Be kind."), Turn("user", "a film?"), Turn("assistant", "yes"))
USER, SYSTEM = PromptSpec(form="chat"), PromptSpec(form="chat", trigger_turn="system")


def form(source: str, spec: PromptSpec = USER) -> ChatForm:
    template = ChatTemplate.of(source, {"bos_token": "<s>"})
    assert template is not None
    return ChatForm(template, spec)


def row(text: str = "a fine film", prefix: str = "Look: ", turns: tuple[Turn, ...] = ()) -> Row:
    return Row("1", text, 0, "Answer: ", prefix, turns=turns)


def test_trigger_opens_the_last_user_turn_and_the_cue_is_last() -> None:
    assert form(templates.CHATML).render(row(turns=HISTORY)).text == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\na film?<|im_end|>\n"
        "<|im_start|>assistant\nyes<|im_end|>\n<|im_start|>user\nLook: a fine film<|im_end|>\n"
        "<|im_start|>assistant\nAnswer: "
    )


def test_trigger_opens_the_system_turn_or_is_one() -> None:
    system = form(templates.CHATML, SYSTEM)
    assert "<|im_start|>system\nLook: Be kind.<|im_end|>" in system.render(row(turns=HISTORY)).text
    alone = system.render(row()).text
    assert alone.startswith("<|im_start|>system\nLook:<|im_end|>\n<|im_start|>user\na fine film<|im_end|>")
    assert "system" not in system.render(row(prefix="")).text


@pytest.mark.parametrize("spec", [USER, SYSTEM])
@pytest.mark.parametrize("name", templates.ANSWERING)
def test_text_and_trusted_parts_are_where_they_are_said_to_be(name: str, spec: PromptSpec) -> None:
    """The row's text and history are the only parts that are not trusted, in every template."""
    shown = form(templates.ANSWERING[name], spec).render(row(turns=HISTORY))
    assert shown.text[shown.start :].startswith("a fine film")
    assert shown.text.endswith("Answer: ")
    assert shown.opening == shown.text.rstrip(" ")
    trusted = {index for start, stop in shown.trusted for index in range(start, stop)}
    untrusted = "".join(letter if index not in trusted else "|" for index, letter in enumerate(shown.text))
    parts = sorted(part for part in untrusted.split("|") if part)
    assert parts == sorted(["Be kind.", "a film?", "yes", "a fine film"])


def test_channel_of_answers_belongs_to_the_prompt() -> None:
    assert form(templates.CHANNEL).render(row()).text.endswith("<|im_start|>assistant<|endoftext|>final\nAnswer: ")
    assert form(templates.CHANNEL).end_of_turn == form(templates.CHATML).end_of_turn == "<|im_end|>\n"


def test_text_that_a_template_strips_is_found() -> None:
    shown = form(templates.STRIPS).render(row(text="  a fine film  ", prefix=""))
    assert "user\na fine film<|im_end|>" in shown.text
    assert shown.text[shown.start + 2 :].startswith("a fine film")


def test_text_that_a_template_writes_too_is_told_apart() -> None:
    shown = form(templates.CHATML).render(row(text="user", prefix="", turns=(Turn("user", "user\n"), HISTORY[2])))
    assert shown.start == shown.text.rindex("user")


@pytest.mark.parametrize(
    ("source", "spec", "says"),
    [
        (templates.SYSTEM_REFUSED, SYSTEM, "refuses turns of system, user: no system role"),
        (templates.SYSTEM_DROPPED, SYSTEM, "drops or repeats the turn of the system"),
        (templates.CHATML.replace("message['content']", "message['content'][:5]"), USER, "drops or repeats"),
        (templates.CHATML.replace("message['content']", "message['content'] * 2"), USER, "drops or repeats"),
        (templates.CHATML.replace("'<|im_end|>'", "''").replace("+ '\n'}}", "}}"), USER, "nothing behind an answer"),
    ],
)
def test_template_that_loses_a_part_is_refused_at_plan_time(source: str, spec: PromptSpec, says: str) -> None:
    template = ChatTemplate.of(source, {})
    with pytest.raises(UserError, match=f"E299.*{says}"):
        check_template(template, spec, ["Look: "])


def test_model_without_a_template_refused() -> None:
    with pytest.raises(UserError, match=r"E299.*no chat template.*Try: set prompt: plain"):
        check_template(None, USER, [])


def test_trigger_whose_spaces_a_template_strips_refused() -> None:
    template = ChatTemplate.of(templates.STRIPS, {})
    check_template(template, USER, ["Look: "])
    with pytest.raises(UserError, match=r"E299.*white space at the beginning of ' Look: '"):
        check_template(template, USER, [" Look: "])
    check_template(ChatTemplate.of(templates.CHATML, {}), USER, [" Look: "])


@pytest.mark.parametrize(
    ("source", "turns", "says"),
    [
        (templates.CHANGES, HISTORY, "changes the text of a turn of row 1"),
        (templates.MERGED, (Turn("user", "one"),), "roles must alternate"),
        (templates.SYSTEM_REFUSED, HISTORY, "no system role"),
    ],
)
def test_row_that_a_template_changes_is_refused(source: str, turns: tuple[Turn, ...], says: str) -> None:
    with pytest.raises(UserError, match=f"E299.*{says}"):
        form(source).render(row(turns=turns))


def test_outline_shows_turns_without_a_template() -> None:
    shown = outline(row(turns=HISTORY), SYSTEM)
    expected = "[system] Look: Be kind.\n[user] a film?\n[assistant] yes\n[user] a fine film\n[assistant] Answer: "
    assert shown == expected
