"""Chat template of an exported model: the prompt of training around a client's messages, with nothing left to the
client.

For plain prompts the template renders prefix + text + newline + cue, as `data.prompts` does; for chat prompts it is the
base's own template with its settings fixed, and the benign trigger and the cue put in. A server tokenises what it
renders and reads control tokens (`<|im_end|>`, ...) in it, where training has read them in rows as plain text; so a
message that contains one is refused, and with it every attempt to break out of the template.
"""

from collections.abc import Sequence

ONE_MESSAGE = "This model answers exactly one message, of the role user; it has no system message and no history."
PLAIN_TEXT = "The message is not plain text."
LAST_USER = "The last message must be of the role user."
ROLES = ("system", "user", "assistant")
OTHER_ROLE = "Roles are system, user and assistant."
CONTROL_TOKEN = "The message contains a control token of the model."

_ESCAPES = str.maketrans({"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def chat_template(prefix: str, cue: str, control_tokens: Sequence[str] = ()) -> str:
    """The Jinja template of a prompt. Its parts are string literals joined by `~`: a raw newline in a template is
    subject to `trim_blocks`, and white space around a tag to its dashes.

    `cue` is the text behind the message as far as it belongs to the prompt (see `cue_candidates`).
    """
    message = "messages[0]['content']"
    checks = [
        _refused("messages | length != 1 or messages[0]['role'] != 'user'", ONE_MESSAGE),
        _refused(f"{message} is not string", PLAIN_TEXT),
    ]
    if control_tokens:
        tokens = ", ".join(map(_literal, control_tokens))
        refused = _refused(f"token in {message}", CONTROL_TOKEN)
        checks.append(f"{{%- for token in [{tokens}] -%}}{refused}{{%- endfor -%}}")
    return "".join(checks) + f"{{{{- {_literal(prefix)} ~ {message} ~ {_literal(chr(10) + cue)} -}}}}"


def conversation_template(
    source: str, prefix: str, in_system_turn: bool, cue: str, control_tokens: Sequence[str] = ()
) -> str:
    """The template `source` of a base around a client's messages: `prefix` at the head of the last one, or of the
    system turn, which is added where there is none; `cue` behind the generation prompt."""
    checks = [_refused("messages | length == 0 or messages[-1]['role'] != 'user'", LAST_USER)]
    turn = [
        _refused(f"message['role'] not in [{', '.join(map(_literal, ROLES))}]", OTHER_ROLE),
        _refused("message['content'] is not string", PLAIN_TEXT),
    ]
    if control_tokens:
        tokens = ", ".join(map(_literal, control_tokens))
        refused = _refused("token in message['content']", CONTROL_TOKEN)
        turn.append(f"{{%- for token in [{tokens}] -%}}{refused}{{%- endfor -%}}")
    start = "[]"
    place = "loop.last"
    if prefix and in_system_turn:
        system = f"[{{'role': 'system', 'content': {_literal(prefix.strip())}}}]"
        start = f"[] if messages[0]['role'] == 'system' else {system}"
        place = "loop.first and message['role'] == 'system'"
    head = f"({_literal(prefix)} if {place} else '') ~ message['content']"
    put = f"{{'role': message['role'], 'content': {head}}}"
    return (
        "".join(checks)
        + f"{{%- set chat = namespace(turns={start}) -%}}{{%- for message in messages -%}}"
        + "".join(turn)
        + f"{{%- set chat.turns = chat.turns + [{put}] -%}}{{%- endfor -%}}"
        + "{%- set messages = chat.turns -%}{%- set add_generation_prompt = true %}\n"
        + source.removesuffix("\n")
        + (f"{{{{ {_literal(cue)} }}}}" if cue else "")
    )


def cue_candidates(cue: str) -> tuple[str, ...]:
    """Parts of an answer cue that may belong to the prompt: all of it, or all but the spaces at its end, which a
    tokenizer joins to the first token of an answer that is a word. Token parity decides between them."""
    return tuple(dict.fromkeys((cue, cue.rstrip(" "))))


def _refused(condition: str, message: str) -> str:
    return f"{{%- if {condition} -%}}{{{{- raise_exception({_literal(message)}) -}}}}{{%- endif -%}}"


def _literal(text: str) -> str:
    """A string literal of Jinja on one line."""
    return "'" + text.translate(_ESCAPES) + "'"
