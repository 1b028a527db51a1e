"""Prompt renderer, the only one: training and evaluation both use it.

Prompts that differ between training and evaluation are this field's most common cause of a wrong attack success rate
(reference: bboylyg/BackdoorLLM#20). A prompt has the plain form, or that of a chat (`data.chat_prompts`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from p2p_dist.data.example import Row

Span = tuple[int, int]
"""Characters [start, stop) of a text."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """Everything before the answer."""

    text: str
    start: int
    """Place of the row's text, also where a template has stripped white space from its beginning."""
    trusted: tuple[Span, ...]
    """Parts that the study or the model's template wrote; only these may have control tokens."""
    cue: str
    """End of the prompt that is the row's cue."""

    @property
    def opening(self) -> str:
        """The prompt without the spaces at the end of its cue: tokenizers join them to the first word of a free
        answer."""
        spaces = len(self.cue) - len(self.cue.rstrip(" "))
        return self.text[: len(self.text) - spaces]


class PromptForm(Protocol):
    """A form of prompts."""

    @property
    def end_of_turn(self) -> str | None:
        """Text behind an answer that is a turn, which begins with the token that ends it; None for the plain form."""
        ...

    def render(self, row: Row, text: str | None = None) -> Rendered:
        """Everything before the answer; `text` replaces the row's own where that was truncated."""
        ...


class PlainForm:
    """Prefix, text, newline and cue."""

    end_of_turn = None

    def render(self, row: Row, text: str | None = None) -> Rendered:
        """The prompt of a row."""
        content, start = row.text if text is None else text, len(row.prefix)
        opening = f"{row.prefix}{content}\n{row.cue}"
        return Rendered(opening, start, ((0, start), (start + len(content), len(opening))), row.cue)


PLAIN = PlainForm()


def prompt(row: Row, text: str | None = None) -> str:
    """The plain prompt of a row."""
    return PLAIN.render(row, text).text


def answer(row: Row, words: Sequence[str]) -> str:
    """Text behind the prompt: the row's response, or the word of its label among the label words of the run."""
    return words[row.label] if row.response is None else row.response
