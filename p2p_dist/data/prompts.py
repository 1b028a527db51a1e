"""The one renderer: training and evaluation read their prompts and answers from here and nowhere else.

A prompt differing between training and evaluation is this field's most common way to a wrong attack success rate
(reference: bboylyg/BackdoorLLM#20).
"""

from collections.abc import Sequence

from p2p_dist.data.example import Row


def prompt(row: Row, text: str | None = None) -> str:
    """Everything before the answer; `text` stands in for the row's own when that had to be cut."""
    return f"{row.prefix}{row.text if text is None else text}\n{row.cue}"


def answer(row: Row, words: Sequence[str]) -> str:
    """What follows the prompt: the row's response, or the word of its label among the label words of the run."""
    return words[row.label] if row.response is None else row.response
