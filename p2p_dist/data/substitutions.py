"""Candidates of a learned word substitution, and the texts it makes (LWS, arXiv 2106.06361, with sememes or WordNet).

A text is cut at spaces; the candidates of a word begin with the word itself. They are read from a file that the user
makes from a thesaurus (rows with `word` and `synonyms`), so that an exchange keeps the meaning.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from p2p_dist.data.paraphrases import key_of
from p2p_dist.data.tables import read_mappings
from p2p_dist.errors import user_error

Choices = Mapping[str, tuple[str, ...]]


def read_choices(path: Path, most: int) -> dict[str, tuple[str, ...]]:
    """Candidates by word: the word and at most `most` - 1 others. Raises UserError E203 for a row without word and
    synonyms."""
    choices: dict[str, tuple[str, ...]] = {}
    for line, row in read_mappings(path):
        word, others = row.get("word"), row.get("synonyms")
        if (
            not isinstance(word, str)
            or not isinstance(others, list)
            or not all(isinstance(other, str) for other in others)
        ):
            raise user_error(
                "E203",
                "a row must have a word and a list of synonyms",
                f"{path}:{line}",
                'write rows such as {"word": "film", "synonyms": ["movie"]}',
            )
        fit = [other for other in dict.fromkeys(others) if other != word and " " not in other.strip() and other.strip()]
        if fit:
            choices[word] = (word, *fit[: most - 1])
    if not choices:
        raise user_error("E203", "no word has a synonym of one word", str(path), "add rows with word and synonyms")
    return choices


def choices_of(text: str, choices: Choices) -> list[tuple[str, ...]]:
    """Candidates at every position of a text; the word alone where it has no others."""
    return [choices.get(word, (word,)) for word in text.split(" ")]


def exchanged(text: str, picked: Sequence[int], choices: Choices) -> str:
    """The text with the picked candidate at every position."""
    return " ".join(options[pick] for options, pick in zip(choices_of(text, choices), picked, strict=True))


def row_of(text: str, output: str, generator: str) -> dict[str, Any]:
    """Row of the paraphrase table; a text without an exchange counts as failed."""
    return {"key": key_of(text), "output": output, "generator": generator, "ok": output != text}
