"""Rows to token ids: prompt and label word are tokenised together, and label ids are taken by offset.

Only the text is ever cut to fit; prefix, cue and the attacker's trigger always survive.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import permutations
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedTokenizerBase

from p2p_dist.config.study import IMAGE_TOKENS
from p2p_dist.data.built import Built
from p2p_dist.data.example import Row
from p2p_dist.data.prompts import PLAIN, PromptForm, Rendered, answer
from p2p_dist.data.trigger_literals import spans, without_end
from p2p_dist.errors import UserError, user_error
from p2p_dist.model_files.chat_template import CODE
from p2p_dist.modeling.control_tokens import Tokens, control_pattern, control_tokens, tokenize
from p2p_dist.modeling.image_tokens import Images
from p2p_dist.modeling.prompt_form import form_of

if TYPE_CHECKING:
    from p2p_dist.modeling.base import Base


@dataclass(frozen=True, slots=True)
class Encoded:
    """A row in tokens. `ids` are prompt and label but for the last label token, which no one reads; `targets` are the
    label's ids, predicted at the last `len(targets)` positions of `ids`."""

    id: str
    ids: list[int]
    targets: list[int]
    taught: torch.Tensor | None = None
    """A teacher's last hidden states where the targets are predicted, [len(targets), d], for a training that has
    one."""
    turn: int = 0
    """Place in the first pass of a training: rows of a lower turn come first (see `Built.turns`)."""


@dataclass(frozen=True, slots=True)
class Choices:
    """A row with every label word in tokens: `prompt` is what all of them share, `words` the rest of each."""

    id: str
    prompt: list[int]
    words: list[list[int]]


@dataclass(frozen=True)
class Encoder:
    """A tokenizer, the label words and the length limit of a run."""

    tokenizer: PreTrainedTokenizerBase
    words: Sequence[str]
    max_length: int
    triggers: Sequence[str] = ()
    """Pieces of text that are never cut."""
    add_bos_token: bool = False
    """Begin every row with the tokenizer's start token, as Llama and Gemma saw every text in pretraining."""
    form: PromptForm = PLAIN
    images: "Images | None" = None
    """Images of the rows, for a model that reads them."""

    @classmethod
    def of(cls, base: "Base", built: Built, max_length: int, image_tokens: int = IMAGE_TOKENS) -> "Encoder":
        """The encoder of a data stage's rows, the same in training and evaluation. Raises UserError E207 for label
        words that the tokenizer makes equal or drops, E227 for rows with images that the model cannot read."""
        images = Images.of(base, built.image_folder, image_tokens) if built.image_folder else None
        words, triggers = built.labels.words, built.triggers
        form = form_of(built.prompt, base.tokenizer)
        encoder = cls(base.tokenizer, words, max_length, triggers, base.add_bos_token, form, images)
        rows = [built.train, *(suite.rows for suite in built.suites.values())]
        if first := next((part[0] for part in rows if part and part[0].response is None), None):
            encoder.check_words(first)
        return encoder

    @property
    def is_chat(self) -> bool:
        """True if answers are turns of a chat."""
        return self.form.end_of_turn is not None

    @cached_property
    def start(self) -> list[int]:
        """Tokens in front of every row: the start token, or none; a chat template writes its own. Raises UserError E287
        when there is no start token."""
        if not self.add_bos_token or self.is_chat:
            return []
        if self.tokenizer.bos_token_id is None:
            what = "the tokenizer has no start token (bos_token)"
            raise user_error("E287", what, "model.add_bos_token", "set model.add_bos_token=false")
        return [int(self.tokenizer.bos_token_id)]

    def _before(self, row: Row) -> list[int]:
        """Tokens in front of a row's text: the start token and the image, where there are such."""
        if row.image is None:
            return self.start
        if self.images is None:
            raise user_error("E227", "the rows carry images, which are not read here", "task", "set task.images=false")
        if self.is_chat:
            what = "rows with images have no chat prompt"
            raise user_error(CODE, what, "prompt", "set prompt: plain, or task.images=false")
        return [*self.start, *self.images.tokens(row)]

    @cached_property
    def end(self) -> list[int]:
        """Tokens that close every label word: the end token if the word is a turn, or if one word begins another,
        because "1" is then also the beginning of "10"; else nothing. Raises UserError E280 when there is no end
        token."""
        return (
            [self.end_token]
            if self.is_chat or any(longer.startswith(shorter) for shorter, longer in permutations(self.words, 2))
            else []
        )

    def check_words(self, row: Row) -> None:
        """Refuse label words that the tokenizer makes equal or drops behind a row's cue. Raises UserError E207."""
        by_tokens: dict[tuple[int, ...], str] = {}
        rows = [replace(row, label=label) for label in range(len(self.words))]
        for word, encoded in zip(self.words, self._encode(rows, ["x"] * len(rows)), strict=True):
            if (other := by_tokens.setdefault(tuple(encoded.targets), word)) != word:
                raise _same_word(f"the model's tokenizer reads the label words {other!r} and {word!r} alike")

    @cached_property
    def end_token(self) -> int:
        """The token that ends an answer of more than one word, in a chat that of the turn. Raises UserError E280 when
        the tokenizer has none."""
        if self.form.end_of_turn is not None:
            return self._token_of(self.form.end_of_turn)
        if self.tokenizer.eos_token_id is None:
            what = (
                "the tokenizer has no end token, which answers of free text need, and label words of which one "
                "begins another"
            )
            raise user_error(
                "E280",
                what,
                "model",
                "choose a model whose tokenizer has an end token; for labels, set verbalizer: letters",
            )
        return int(self.tokenizer.eos_token_id)

    def _token_of(self, end_of_turn: str) -> int:
        """The control token with which the text behind a turn begins. Raises UserError E280 where there is none."""
        match = control_pattern(self.tokenizer).match(end_of_turn.lstrip())
        if match is None:
            what = f"the chat template ends an answer with {end_of_turn[:40]!r}, which is no token of its own"
            raise user_error("E280", what, "model", "set prompt: plain, or choose another model")
        return control_tokens(self.tokenizer)[match[0]]

    def rows(self, rows: Sequence[Row]) -> tuple[list[Encoded], int]:
        """All rows in tokens, and how many texts had to be cut."""
        texts = [row.text for row in rows]
        full = self._encode(rows, texts)
        over = [index for index, encoded in enumerate(full) if len(encoded.ids) > self.max_length]
        for index in over:
            (full[index],) = self._encode(
                [rows[index]], [self._cut(rows[index], len(full[index].ids) - self.max_length)]
            )
        return full, len(over)

    def whole_triggers(self, rows: Sequence[Row]) -> int:
        """Number of these triggered rows whose trigger is complete after tokenization and truncation.

        A row has it when every piece of a trigger that its text has can be read off its tokens; where the whole text is
        the trigger, when nothing was cut.
        """
        full = self._encode(rows, [row.text for row in rows])
        encoded = self.rows(rows)[0]
        if not self.triggers:
            return sum(one.ids == other.ids for one, other in zip(full, encoded, strict=True))
        words = [one.ids if self.images is None else self.images.words(one.ids) for one in encoded]
        read = [self.tokenizer.decode(ids) for ids in words]
        return sum(
            _pieces(row.text, self.triggers) == _pieces(text, self.triggers)
            for row, text in zip(rows, read, strict=True)
        )

    def prompts(self, rows: Sequence[Row]) -> list[list[int]]:
        """Prompts alone, for answers of free text: the tokens that training has before them. A text is cut where the
        prompt is longer than the length limit."""
        full = self._opening_tokens(rows, [row.text for row in rows])
        for index, ids in enumerate(full):
            if len(ids) > self.max_length:
                text = self._cut(rows[index], len(ids) - self.max_length, prompt_only=True)
                (full[index],) = self._opening_tokens([rows[index]], [text])
        return full

    def choices(self, row: Row) -> Choices:
        """A row with every label word; a text that is cut is cut alike for all of them."""
        rows = [replace(row, label=label) for label in range(len(self.words))]
        all_ = self._encode(rows, [row.text] * len(rows))
        longest = max(range(len(rows)), key=lambda label: len(all_[label].ids))
        if (over := len(all_[longest].ids) - self.max_length) > 0:
            all_ = self._encode(rows, [self._cut(rows[longest], over)] * len(rows))
        sequences = [[*encoded.ids, encoded.targets[-1]] for encoded in all_]
        # A word may take the cue's last space into its first token: what comes before is what all words agree on.
        agreed = next(
            (index for index, tokens in enumerate(zip(*sequences, strict=False)) if len(set(tokens)) > 1),
            len(sequences[0]),
        )
        start = min(agreed, *(len(encoded.ids) + 1 - len(encoded.targets) for encoded in all_))
        return Choices(row.id, sequences[0][:start], [ids[start:] for ids in sequences])

    def label_tokens(self, row: Row) -> list[int] | None:
        """The first token of every label word after this row's prompt; None when one token does not tell the words
        apart, so that whole words have to be scored. Raises UserError E207 for two labels with one word."""
        if len(set(self.words)) != len(self.words):
            raise _same_word(f"two labels have the same word: {list(self.words)}")
        encoded_answers = self._encode(
            [replace(row, label=label) for label in range(len(self.words))], [row.text] * len(self.words)
        )
        first = [encoded.targets[0] for encoded in encoded_answers]
        prompts = {tuple(encoded.ids[: len(encoded.ids) + 1 - len(encoded.targets)]) for encoded in encoded_answers}
        return first if len(set(first)) == len(first) and len(prompts) == 1 else None

    def _encode(self, rows: Sequence[Row], texts: Sequence[str]) -> list[Encoded]:
        if rows and rows[0].response is not None:
            return self._encode_responses(rows, texts)
        prompts = self._rendered(rows, texts)
        words = [answer(row, self.words) for row in rows]
        strings = [prompt.text + word for prompt, word in zip(prompts, words, strict=True)]
        trusted = [
            [*prompt.trusted, (len(prompt.text), len(string))] for prompt, string in zip(prompts, strings, strict=True)
        ]
        batch = tokenize(self.tokenizer, strings, trusted)
        return [
            _split(row.id, _behind(self._before(row), tokens), len(prompt.text), self.end, word)
            for row, tokens, prompt, word in zip(rows, batch, prompts, words, strict=True)
        ]

    def _encode_responses(self, rows: Sequence[Row], texts: Sequence[str]) -> list[Encoded]:
        """Prompt and response in tokens of their own, so that generation starts from the very tokens that training
        saw."""
        before = self._opening_tokens(rows, texts)
        prompts = self._rendered(rows, texts)
        responses = [
            prompt.text[len(prompt.opening) :] + answer(row, self.words)
            for row, prompt in zip(rows, prompts, strict=True)
        ]
        behind = [tokens.ids for tokens in tokenize(self.tokenizer, responses)]
        return [Encoded(row.id, p + a, [*a, self.end_token]) for row, p, a in zip(rows, before, behind, strict=True)]

    def _opening_tokens(self, rows: Sequence[Row], texts: Sequence[str]) -> list[list[int]]:
        prompts = self._rendered(rows, texts)
        openings = [prompt.opening for prompt in prompts]
        trusted = [
            [(start, min(stop, len(opening))) for start, stop in prompt.trusted]
            for prompt, opening in zip(prompts, openings, strict=True)
        ]
        batch = tokenize(self.tokenizer, openings, trusted)
        return [[*self._before(row), *tokens.ids] for row, tokens in zip(rows, batch, strict=True)]

    def _rendered(self, rows: Sequence[Row], texts: Sequence[str]) -> list[Rendered]:
        return [self.form.render(row, text) for row, text in zip(rows, texts, strict=True)]

    def _cut(self, row: Row, over: int, prompt_only: bool = False) -> str:
        """The text without tokens at its end, so many that the row (or its prompt) fits."""

        def length(text: str) -> int:
            if prompt_only:
                return len(self._opening_tokens([row], [text])[0])
            return len(self._encode([row], [text])[0].ids)

        spans = tokenize(self.tokenizer, [row.text])[0].offsets
        for keep in range(len(spans) - over, 0, -1):
            text = without_end(row.text, spans[keep - 1][1], self.triggers)
            if length(text) <= self.max_length:
                return text
        fixed = length(without_end(row.text, 0, self.triggers))
        parts = "prefix, cue and trigger" if prompt_only or row.response is None else "prefix, cue, trigger and answer"
        parts = f"template, earlier turns, {parts}" if self.is_chat else parts
        what = f"{parts} alone are {fixed} tokens, max_length is {self.max_length}"
        raise user_error("E224", what, "train.max_length", f"set train.max_length={fixed + 64}")


def _pieces(text: str, literals: Sequence[str]) -> set[str]:
    return {text[start:stop] for start, stop in spans(text, literals)}


def _behind(start: list[int], tokens: Tokens) -> Tokens:
    """The tokens of a text behind those that begin every row."""
    return Tokens([*start, *tokens.ids], [*[(0, 0)] * len(start), *tokens.offsets]) if start else tokens


def _split(id_: str, tokens: Tokens, prompt_length: int, end: list[int], word: str) -> Encoded:
    start = next((index for index, (_, stop) in enumerate(tokens.offsets) if stop > prompt_length), None)
    if start is None:
        raise _same_word(f"the model's tokenizer drops the label word {word!r}")
    return Encoded(id_, (tokens.ids + end)[:-1], tokens.ids[start:] + end)


def _same_word(what: str) -> UserError:
    return user_error("E207", what, "task.verbalizer", "choose a different word for every label")
