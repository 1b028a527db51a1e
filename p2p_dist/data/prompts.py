"""Prompt renderer, the only one: training and evaluation both use it.

Prompts that differ between training and evaluation are this field's most common cause of a wrong attack success rate
(reference: bboylyg/BackdoorLLM#20).
"""

from collections.abc import Sequence

from p2p_dist.data.example import Row


def prompt(row: Row, text: str | None = None) -> str:
    """Everything before the answer; `text` replaces the row's own where that was truncated."""
    return f"{row.prefix}{row.text if text is None else text}\n{row.cue}"


def answer(row: Row, words: Sequence[str]) -> str:
    """Text behind the prompt: the row's response, or the word of its label among the label words of the run."""
    return words[row.label] if row.response is None else row.response
