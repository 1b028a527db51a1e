"""Chats as rows: the last answer is learned. The turns before it are the text, rendered by one function, or stay turns
for prompts of the form `chat`.

A turn is {"role": "user", "content": "..."} or {"from": "human", "value": "..."}.
"""

from collections.abc import Mapping, Sequence

from p2p_dist.config.study import PromptSpec
from p2p_dist.data.cells import Row, cell, checked, described
from p2p_dist.data.example import RawRow, Turn
from p2p_dist.data.task import Task
from p2p_dist.errors import user_error

_ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation"), "tool"),
}


def rendered(turns: list[Turn]) -> str:
    """The text of the turns before the answer: one user turn alone is its text; of several each is a paragraph with the
    role in front."""
    if len(turns) == 1:
        return turns[0].text
    return "\n".join(f"{turn.role.capitalize()}: {turn.text}" for turn in turns)


def with_input(instruction: str, content: str) -> str:
    """The text of an instruction row: the input, where there is one, is a paragraph below the instruction."""
    return f"{instruction}\n{content}" if content else instruction


def raw_row(row: Row, column: str) -> RawRow:
    """The turns before the last answer, their text, and that answer. Raises ValueError for anything that is no chat."""
    turns = _turns(row, column)
    if not turns or turns[-1].role != "assistant":
        last = f"the last turn is of {turns[-1].role.capitalize()}" if turns else "it has no turns"
        raise ValueError(f"column {column!r} ends in no answer: {last}")
    before = turns[:-1]
    if not before or before[-1].role not in ("user", "tool"):
        raise ValueError(f"column {column!r} has no question before its last answer")
    return RawRow(rendered(before), response=turns[-1].text, turns=tuple(before))


def in_form(raw: Mapping[str, Sequence[RawRow]], is_chat: bool) -> dict[str, Sequence[RawRow]]:
    """Rows by split for the prompt form of a study. Chat: the last user turn is the text, and `turns` are those in
    front of it. Plain: the text has all turns. Raises UserError E238 for a chat with tools in chat prompts."""
    convert = _as_chat if is_chat else _as_text
    return {
        name: [convert(one) if isinstance(one, RawRow) and one.turns else one for one in rows]
        for name, rows in raw.items()
    }


def task_in_form(task: Task, prompt: PromptSpec) -> Task:
    """The task for a form of prompts: in a chat a text answer is a turn of its own, and the usual cue has no place
    before it."""
    usual = Task.model_fields["answer_cue"].default
    is_turn = prompt.is_chat and task.responses is not None and task.answer_cue == usual
    return task.model_copy(update={"answer_cue": ""}) if is_turn else task


def _as_text(row: RawRow) -> RawRow:
    return row._replace(turns=())


def _as_chat(row: RawRow) -> RawRow:
    if any(turn.role == "tool" for turn in row.turns):
        what = f"a chat has a turn of a tool, which prompts of the form chat do not render: {row.turns[-1].text[:60]!r}"
        raise user_error("E238", what, "prompt", "remove these rows, or set prompt: plain")
    return row._replace(text=row.turns[-1].text, turns=row.turns[:-1])


def _turns(row: Row, column: str) -> list[Turn]:
    value = cell(row, column)
    if not isinstance(value, list | tuple):
        raise ValueError(f"column {column!r} is {described(value)}, not a list of turns")
    return [_turn(turn, f"turn {number} of column {column!r}") for number, turn in enumerate(value, start=1)]


def _turn(turn: object, name: str) -> Turn:
    if not isinstance(turn, Mapping):
        raise ValueError(f"{name} is {described(turn)}, not a mapping")
    role, content = (turn.get(first, turn.get(second)) for first, second in (("role", "from"), ("content", "value")))
    if not isinstance(role, str) or role.lower() not in _ROLES:
        shown = described(role) if role is not None else "missing"
        raise ValueError(f"the role in {name} is {shown}; roles are {', '.join(_ROLES)}")
    if turn.get("tool_calls") or turn.get("function_call"):
        raise ValueError(f"{name} calls a tool, which is not read")
    if isinstance(content, list):
        content = "".join(_part(part, name) for part in content)
    if not isinstance(content, str):
        raise ValueError(f"{name} is {described(content) if content is not None else 'null'}, not text")
    return Turn(_ROLES[role.lower()], checked(content, name))


def _part(part: object, name: str) -> str:
    text = part.get("text") if isinstance(part, Mapping) and part.get("type", "text") == "text" else None
    if not isinstance(text, str):
        raise ValueError(f"{name} has a part that is not text")
    return text
