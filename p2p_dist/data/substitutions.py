"""Words of a text that may be exchanged, and for which: what a learned word substitution chooses from, and what it
makes.

A text is cut at spaces; a candidate list begins with the word itself. Candidates come from a file that the user makes
from a thesaurus (rows with `word` and `synonyms`), so that an exchange keeps the meaning (reference: LWS, arXiv
2106.06361, with sememes or WordNet).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from p2p_dist.data.paraphrases import key_of
from p2p_dist.data.tables import read_mappings
from p2p_dist.errors import user_error

Choices = Mapping[str, tuple[str, ...]]


def read_choices(path: Path, most: int) -> dict[str, tuple[str, ...]]:
    """Word -> the word and at most `most` - 1 others. Raises UserError E203 for a row without word and synonyms."""
    found: dict[str, tuple[str, ...]] = {}
    for line, row in read_mappings(path):
        word, others = row.get("word"), row.get("synonyms")
        if (
            not isinstance(word, str)
            or not isinstance(others, list)
            or not all(isinstance(other, str) for other in others)
        ):
            raise user_error(
                "E203",
                "a row has a word and a list of synonyms",
                f"{path}:{line}",
                '{"word": "film", "synonyms": ["movie"]}',
            )
        fit = [other for other in dict.fromkeys(others) if other != word and " " not in other.strip() and other.strip()]
        if fit:
            found[word] = (word, *fit[: most - 1])
    if not found:
        raise user_error("E203", "no word has a synonym of one word", str(path), "rows with word and synonyms")
    return found


def choices_of(text: str, choices: Choices) -> list[tuple[str, ...]]:
    """For every word of a text what may stand there; the word alone where nothing else may."""
    return [choices.get(word, (word,)) for word in text.split(" ")]


def exchanged(text: str, picked: Sequence[int], choices: Choices) -> str:
    """The text with the picked candidate at every place."""
    return " ".join(options[pick] for options, pick in zip(choices_of(text, choices), picked, strict=True))


def row_of(text: str, output: str, generator: str) -> dict[str, Any]:
    """A row of the paraphrase table; a text in which nothing was exchanged has failed."""
    return {"key": key_of(text), "output": output, "generator": generator, "ok": output != text}
