"""Rows to token ids: prompt and label word are tokenised together, and label ids are taken by offset.

Only the text is ever cut to fit; prefix and cue always survive.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from p2p_dist.data.example import Row
from p2p_dist.data.prompts import fixed_parts, prompt
from p2p_dist.errors import user_error


@dataclass(frozen=True, slots=True)
class Encoded:
    """A row in tokens. `ids` are prompt and label but for the last label token, which no one reads; `targets` are the
    label's ids, predicted at the last `len(targets)` positions of `ids`."""

    id: str
    ids: list[int]
    targets: list[int]


@dataclass(frozen=True)
class Encoder:
    """A tokenizer, the label words and the length limit of a run."""

    tokenizer: PreTrainedTokenizerBase
    words: Sequence[str]
    max_length: int

    def rows(self, rows: Sequence[Row]) -> tuple[list[Encoded], int]:
        """All rows in tokens, and how many texts had to be cut."""
        texts = [row.text for row in rows]
        full = self._encode(rows, texts)
        over = [at for at, encoded in enumerate(full) if len(encoded.ids) > self.max_length]
        for at in over:
            full[at] = self._cut(rows[at], len(full[at].ids) - self.max_length)
        return full, len(over)

    def label_tokens(self, row: Row) -> list[int]:
        """The first token of every label word after this row's prompt.

        Raises UserError E207 when two labels begin with the same token, which one-token scoring cannot tell apart.
        """
        first = [self._encode([_relabel(row, label)], [row.text])[0].targets[0] for label in range(len(self.words))]
        if len(set(first)) != len(first):
            raise user_error("E207", f"label words {list(self.words)} share first tokens {first}", "task.verbalizer", "verbalizer: letters")
        return first

    def _encode(self, rows: Sequence[Row], texts: Sequence[str]) -> list[Encoded]:
        prompts = [prompt(row, text) for row, text in zip(rows, texts, strict=True)]
        words = [self.words[row.label] for row in rows]
        batch = self.tokenizer([p + w for p, w in zip(prompts, words, strict=True)], add_special_tokens=False, return_offsets_mapping=True)
        return [_split(row.id, ids, offsets, len(p)) for row, ids, offsets, p in zip(rows, batch["input_ids"], batch["offset_mapping"], prompts, strict=True)]

    def _cut(self, row: Row, over: int) -> Encoded:
        """Drop tokens from the end of the text until the row fits."""
        spans = self.tokenizer(row.text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        for keep in range(len(spans) - over, 0, -1):
            encoded = self._encode([row], [row.text[: spans[keep - 1][1]]])[0]
            if len(encoded.ids) <= self.max_length:
                return encoded
        fixed = len(self.tokenizer("".join(fixed_parts(row)), add_special_tokens=False)["input_ids"])
        raise user_error("E207", f"prefix and cue alone are {fixed} tokens, max_length is {self.max_length}", "train.max_length", f"{fixed + 64}")


def _split(id_: str, ids: list[int], offsets: list[tuple[int, int]], prompt_length: int) -> Encoded:
    start = next(at for at, (_, end) in enumerate(offsets) if end > prompt_length)
    return Encoded(id_, ids[:-1], ids[start:])


def _relabel(row: Row, label: int) -> Row:
    return Row(row.id, row.text, label, row.cue, row.prefix)
