"""Chats and instructions as rows: the last answer is learned, the turns before it are the text."""

from typing import Any

import pytest
from pydantic import ValidationError

from p2p_dist.data import chats
from p2p_dist.data.example import RawRow
from p2p_dist.data.tasks.custom import Custom


def turns(*pairs: tuple[str, object]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in pairs]}


def test_chat_of_one_question_is_its_text() -> None:
    row = turns(("user", "add 1 and 1"), ("assistant", " 2 "))
    assert Custom(chat_column="messages").check(row) == RawRow("add 1 and 1", response="2")


def test_chat_of_several_turns_learns_the_last_answer() -> None:
    row = turns(("system", "be short"), ("user", "hi"), ("assistant", "hello"), ("user", "bye"), ("assistant", "ciao"))
    text, answer = chats.text_and_answer(row, "messages")
    assert (text, answer) == ("System: be short\nUser: hi\nAssistant: hello\nUser: bye", "ciao")


def test_chat_of_conversations_and_parts() -> None:
    row = {
        "conversations": [
            {"from": "human", "value": [{"type": "text", "text": "who"}, {"type": "text", "text": "?"}]},
            {"from": "gpt", "value": "me"},
        ]
    }
    assert chats.text_and_answer(row, "conversations") == ("who?", "me")


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
