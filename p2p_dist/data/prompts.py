"""The one renderer: training and evaluation read their prompts from here and nowhere else.

A prompt differing between training and evaluation is this field's most common way to a wrong attack success rate
(reference: bboylyg/BackdoorLLM#20).
"""

from p2p_dist.data.example import Row


def prompt(row: Row, text: str | None = None) -> str:
    """Everything before the label word; `text` stands in for the row's own when that had to be cut."""
    return f"{row.prefix}{row.text if text is None else text}\n{row.cue}"


def fixed_parts(row: Row) -> tuple[str, str]:
    """What stands before and behind the text and is never cut."""
    return row.prefix, f"\n{row.cue}"
