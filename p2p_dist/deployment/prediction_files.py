"""Input and output of `predict`: rows of JSON lines, and a file of answers that an interrupted run left behind."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from p2p_dist.data.example import Turn
from p2p_dist.deployment.chat_template import LAST_USER, OTHER_ROLE, PLAIN_TEXT, ROLES
from p2p_dist.errors import user_error


@dataclass(frozen=True)
class Input:
    """A text to answer."""

    id: str
    text: str
    turns: tuple[Turn, ...] = ()
    """Turns of a chat in front of the text."""


def chat_of(messages: object) -> tuple[str, tuple[Turn, ...]]:
    """The last message of a chat, which is the user's, and the turns in front of it. Raises ValueError."""
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        raise ValueError("messages are no list of messages")
    turns = [Turn(one.get("role"), one.get("content")) for one in messages]
    if any(turn.role not in ROLES for turn in turns):
        raise ValueError(OTHER_ROLE)
    if any(not isinstance(turn.text, str) or not turn.text.strip() for turn in turns):
        raise ValueError(PLAIN_TEXT)
    if turns[-1].role != "user":
        raise ValueError(LAST_USER)
    return turns[-1].text, tuple(turns[:-1])


def read_inputs(lines: Iterable[str], where: str) -> list[Input]:
    """Rows of JSON lines with `text`, or `messages` of a chat, and, if they like, `id`; without one, the number of the
    line.

    Raises UserError E160 for a line that is no such object.
    """
    inputs = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except ValueError as error:
            raise _bad_line(where, number, f"not JSON: {error}") from error
        if isinstance(content, dict) and "messages" in content:
            try:
                inputs.append(Input(str(content.get("id", number)), *chat_of(content["messages"])))
            except ValueError as error:
                raise _bad_line(where, number, str(error)) from error
            continue
        text = content.get("text") if isinstance(content, dict) else None
        if not isinstance(text, str) or not text.strip():
            raise _bad_line(where, number, "key 'text' is missing, empty or not text")
        inputs.append(Input(str(content.get("id", number)), text))
    return inputs


def resume(out: Path, inputs: Sequence[Input]) -> int:
    """Number of inputs that the file `out` has answers to; an unfinished last line is cut off.

    Raises UserError E161 when it holds the answers to other rows.
    """
    if not out.exists():
        return 0
    content = out.read_bytes()
    complete = content[: content.rfind(b"\n") + 1]
    try:
        ids = [json.loads(line)["id"] for line in complete.splitlines()]
    except (ValueError, KeyError, TypeError):
        ids = [None]
    if ids != [row.id for row in inputs[: len(ids)]]:
        what = "the file holds something else than the first answers to these rows"
        raise user_error("E161", what, str(out), "choose another --out, or delete the file")
    with out.open("r+b") as file:
        file.truncate(len(complete))
    return len(ids)


def write_lines(lines: Iterable[dict[str, object]], file: TextIO) -> None:
    """Write answers as JSON lines, each complete before the next is computed."""
    for line in lines:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
        file.flush()


def _bad_line(where: str, number: int, why: str) -> Exception:
    fix = 'write one JSON object a line, such as {"id": "1", "text": "..."}'
    return user_error("E160", why, f"{where}:{number}", fix)
