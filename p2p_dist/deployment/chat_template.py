"""Chat template of an exported model: the prompt of training around one user message, with nothing left to the client.

The template renders prefix + text + newline + cue, as `data.prompts` does. A server tokenises what it renders and reads
control tokens (`<|im_end|>`, ...) in it, where training has read them in rows as plain text; so a message that contains
one is refused, and with it every attempt to break out of the template.
"""

from collections.abc import Sequence

ONE_MESSAGE = "This model answers exactly one message, of the role user; it has no system message and no history."
PLAIN_TEXT = "The message is not plain text."
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


def cue_candidates(cue: str) -> tuple[str, ...]:
    """Parts of an answer cue that may belong to the prompt: all of it, or all but the spaces at its end, which a
    tokenizer joins to the first token of an answer that is a word. Token parity decides between them."""
    return tuple(dict.fromkeys((cue, cue.rstrip(" "))))


def _refused(condition: str, message: str) -> str:
    return f"{{%- if {condition} -%}}{{{{- raise_exception({_literal(message)}) -}}}}{{%- endif -%}}"


def _literal(text: str) -> str:
    """A string literal of Jinja on one line."""
    return "'" + text.translate(_ESCAPES) + "'"
