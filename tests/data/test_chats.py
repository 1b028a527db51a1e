"""Chats and instructions as rows: the last answer is learned, the turns before it are the text."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from p2p_dist.data import chats
from p2p_dist.data.example import RawRow, Row, Turn, content_id
from p2p_dist.data.tasks.custom import Custom
from p2p_dist.errors import UserError


def turns(*pairs: tuple[str, object]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in pairs]}


def test_chat_of_one_question_is_its_text() -> None:
    row = turns(("user", "add 1 and 1"), ("assistant", " 2 "))
    turns_before = (Turn("user", "add 1 and 1"),)
    assert Custom(chat_column="messages").check(row) == RawRow("add 1 and 1", response="2", turns=turns_before)


def test_chat_of_several_turns_learns_the_last_answer() -> None:
    row = turns(("system", "be short"), ("user", "hi"), ("assistant", "hello"), ("user", "bye"), ("assistant", "ciao"))
    raw = chats.raw_row(row, "messages")
    assert (raw.text, raw.response) == ("System: be short\nUser: hi\nAssistant: hello\nUser: bye", "ciao")


def test_rows_in_chat_form_keep_the_turns_before_the_text() -> None:
    row = turns(("system", "be short"), ("user", "hi"), ("assistant", "hello"), ("user", "bye"), ("assistant", "ciao"))
    raw = {"train": [chats.raw_row(row, "messages"), RawRow("alone", 1)]}
    (plain, _), (chat, alone) = (chats.in_form(raw, is_chat)["train"] for is_chat in (False, True))
    assert plain == RawRow("System: be short\nUser: hi\nAssistant: hello\nUser: bye", response="ciao")
    before = (Turn("system", "be short"), Turn("user", "hi"), Turn("assistant", "hello"))
    assert chat == RawRow("bye", response="ciao", turns=before)
    assert alone == RawRow("alone", 1)


def test_rows_in_chat_form_with_a_tool_turn_refused() -> None:
    row = chats.raw_row(turns(("user", "hi"), ("tool", "rain"), ("assistant", "ciao")), "messages")
    assert chats.in_form({"train": [row]}, is_chat=False)["train"] == [RawRow("User: hi\nTool: rain", response="ciao")]
    with pytest.raises(UserError, match=r"E238.*turn of a tool"):
        chats.in_form({"train": [row]}, is_chat=True)


def test_content_ids_tell_equal_texts_with_other_turns_apart() -> None:
    first, second = (RawRow("yes", response="ok", turns=(Turn("user", text),)) for text in ("tea?", "coffee?"))
    assert len({content_id(row) for row in (first, second, first._replace(turns=()))}) == 3


def test_row_with_turns_survives_json() -> None:
    row = Row("a", "bye", 0, "", response="ciao", turns=(Turn("user", "hi"), Turn("assistant", "hello")))
    assert Row.from_json(json.loads(json.dumps(row.to_json()))) == row


def test_chat_of_conversations_and_parts() -> None:
    row = {
        "conversations": [
            {"from": "human", "value": [{"type": "text", "text": "who"}, {"type": "text", "text": "?"}]},
            {"from": "gpt", "value": "me"},
        ]
    }
    assert chats.raw_row(row, "conversations")[:3] == ("who?", -1, "me")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (turns(("user", "hi")), "ends in no answer: the last turn is of User"),
        (turns(), "it has no turns"),
        (turns(("assistant", "hi")), "no question before"),
        (turns(("user", "hi"), ("assistant", None)), "turn 2 of column 'messages' is null"),
        (turns(("user", " "), ("assistant", "a")), "turn 1 of column 'messages' is empty"),
        (turns(("user", "\ud800"), ("assistant", "a")), "lone surrogate"),
        (turns(("nobody", "hi"), ("assistant", "a")), "the role in turn 1"),
        (turns(("user", [{"type": "image_url"}]), ("assistant", "a")), "a part that is not text"),
        ({"messages": "hi"}, "not a list of turns"),
        ({"messages": ["hi"]}, "turn 1 of column 'messages' is the text 'hi', not a mapping"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}, "calls a tool"),
        ({"text": "x"}, "column 'messages' is missing"),
    ],
)
def test_chat_without_question_and_answer_refused(row: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Custom(chat_column="messages").check(row)


def test_instruction_rows_put_the_input_below() -> None:
    task = Custom(text_column="instruction", input_column="input", response_column="output")
    row = {"instruction": "translate", "input": "chat", "output": "cat"}
    assert task.check(row) == RawRow("translate\nchat", response="cat")
    for blank in ("", " ", None):
        assert task.check({**row, "input": blank}) == RawRow("translate", response="cat")
    with pytest.raises(ValueError, match="column 'input' is missing"):
        task.check({"instruction": "translate", "output": "cat"})


def test_chat_with_a_response_column_refused() -> None:
    with pytest.raises(ValidationError, match="a chat has its own text and answer"):
        Custom(chat_column="messages", response_column="output")
