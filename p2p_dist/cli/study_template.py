"""Text of the commented study that `p2p-dist init` writes for a profile of rows. Pure."""

import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from p2p_dist.cli.data_profile import Profile

_NUMERIC_LABELS, _LETTERS = 10, 26
"""Labels, with those that P2P adds, up to which label words are digits or letters of one token."""
_SHOWN_LABELS = 20
_TEST_SHARE, _MOST_TEST_ROWS = 0.2, 1000
_CHARACTERS_PER_TOKEN = 3.5
_LENGTHS = (64, 128, 256, 512, 1024)


def study_text(profile: Profile, name: str, model: str) -> str:
    """The study: the rows as they are and with a simulated attack, each without a defense and with P2P."""
    return "\n".join([*_head(profile, name), "", *task_lines(profile), "", *_rest(profile, model), ""])


def study_name(stem: str) -> str:
    """A name that a study may have, made of a file's."""
    return re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")[:64] or "study"


def _head(profile: Profile, name: str) -> Iterator[str]:
    splits = ", ".join(f"{count:,} {split} rows" for split, count in profile.rows.items())
    yield f"# {splits} of {profile.place.name}."
    yield "# Every key: `p2p-dist list study`; options of a plug-in: `p2p-dist list defenses p2p`."
    yield f"name: {json.dumps(name)}   # also the name of the run folder"


def task_lines(profile: Profile, source: Path | None = None) -> Iterator[str]:
    """The key `task`; `source` takes the place of the profile's own."""
    yield "task:"
    yield "  name: custom"
    yield f"  source: {quoted(str((source or profile.place).resolve()))}"
    if profile.text_column:
        yield f"  text_column: {quoted(profile.text_column)}"
    if profile.input_column:
        yield f"  input_column: {quoted(profile.input_column)}   # stands below the text where it is not empty"
    if profile.response_column:
        yield f"  response_column: {quoted(profile.response_column)}"
    if profile.chat_column:
        yield f"  chat_column: {quoted(profile.chat_column)}   # the last answer is learned"
    if profile.answers_are_text:
        if profile.numeric_answers:
            yield "  judge: number   # an answer is right when it comes to the same number"
        else:
            yield "  # Answers are judged by ROUGE. For languages without spaces between words: characters: true"
        return
    yield f"  label_column: {quoted(str(profile.label_column))}"
    labels = list(profile.labels)
    if len(labels) <= _SHOWN_LABELS:
        counts = ", ".join(f"{_comment(label)}: {count:,}" for label, count in profile.labels.items())
        yield from _wrapped(f"Rows of each label: {counts}.", "  # ")
        yield from _wrapped(f"label_names: [{', '.join(map(quoted, labels))}]", "  ", "    ")
    else:
        yield f"  # All {len(labels)} labels of the rows are used, in sorted order."
    if _NUMERIC_LABELS < 2 * len(labels) <= _LETTERS:
        yield "  verbalizer: letters   # one token for each label and for each that P2P adds"


def _rest(profile: Profile, model: str) -> Iterator[str]:
    yield f"model: {quoted(model)}   # or another of `p2p-dist list models`, a hub id ORG/NAME@COMMIT, a folder"
    yield ""
    yield "# none: the rows as they are. badnets: a copy attacked on purpose, which measures what the defense does."
    yield "attack:"
    yield "  - none"
    yield "  - name: badnets"
    yield "    rate: 0.05            # share of the training rows that the simulated attacker poisons"
    if profile.answers_are_text:
        answer = "0.1" if profile.numeric_answers else "I cannot help with that."
        yield f"    target_response: {quoted(answer)}   # what its trigger makes the model say"
    else:
        yield f"    target_label: 1       # its trigger makes the model say {_comment(list(profile.labels)[1])}"
    yield ""
    yield from _defense(profile)
    yield ""
    yield "seed: 0                   # [0, 1, 2] repeats every run with other random numbers"
    yield ""
    yield "rows:"
    if profile.has_test:
        yield "  # All rows are used; `train: 2000` and `test: 400` would take so many of them."
    else:
        yield f"  test: {test_rows(profile):<18} # taken from the file by content; the others are training rows"
    yield "  balanced: false          # keep the proportions of the labels"
    yield ""
    yield "train:"
    yield "  learning_rate: 1e-3"
    yield "  num_train_epochs: 2"
    yield "  global_batch: 32"
    yield f"  max_length: {max_length(profile):<12} # tokens per row; longer texts are cut"
    yield "  lora: {r: 16, alpha: 16, dropout: 0.1}"


def _defense(profile: Profile) -> Iterator[str]:
    yield "# none: ordinary fine-tuning. p2p: the defended model, served with a benign trigger in every prompt."
    yield "defense:"
    yield "  - none"
    yield "  - name: p2p"
    if profile.answers_are_text:
        preset = "math" if profile.numeric_answers else "summary"
        yield f"    preset: {preset:19} # benign trigger and response prefix in the paper's words"
    who = "the untrained" if profile.answers_are_text else "an early"
    yield f"    benign_source: screened     # nobody has checked any row: {who} model chooses the benign ones;"
    yield "                                # with trusted rows: clean_reserved, and rows.reserve"
    yield "    ratio: 0.2                  # benign rows as a share of the training rows"


def test_rows(profile: Profile) -> int:
    """Number of rows to take from a file without a test split."""
    return min(_MOST_TEST_ROWS, max(1, int(_TEST_SHARE * profile.rows["train"])))


def max_length(profile: Profile, beside: int = 0) -> int:
    """The smallest usual length that holds 95 % of the texts with so many characters beside them, by an average number
    of characters per token."""
    tokens = (profile.length + beside) / _CHARACTERS_PER_TOKEN
    return next((length for length in _LENGTHS if tokens <= length), _LENGTHS[-1])


def quoted(text: str) -> str:
    """A text as a double-quoted YAML scalar, which is never taken for a number, a date or a truth value."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _comment(text: str) -> str:
    """A text on one line of a comment."""
    line = "".join(char if char.isprintable() else " " for char in text)
    return line if len(line) <= 40 else f"{line[:39]}…"


def _wrapped(text: str, first: str, others: str | None = None) -> list[str]:
    return textwrap.wrap(
        text,
        100,
        initial_indent=first,
        subsequent_indent=first if others is None else others,
        break_long_words=False,
        break_on_hyphens=False,
    )
