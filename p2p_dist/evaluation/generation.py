"""Text generation: greedy decoding with a key-value cache, in batches.

Rows that can be packed share a cache in which a row that ends makes room for the next one; all others are answered by
transformers' `generate`, padded on the left. A defense may bring its own `Decoder`.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from transformers import GenerationConfig

from p2p_dist.config.families import require_text
from p2p_dist.data.built import Suite
from p2p_dist.evaluation.continuous_batching import answers_of, tokens_at_once
from p2p_dist.modeling.attention import use_implementation
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.batching import by_length
from p2p_dist.modeling.forward import is_packed
from p2p_dist.modeling.guard import plain_implementation
from p2p_dist.modeling.lengths import before_forward, depends_on_length, require_positions
from p2p_dist.modeling.tokenization import Encoder
from p2p_dist.planning.inference import TOKENS_AT_ONCE
from p2p_dist.results.predictions import Generated

OnRow = Callable[[], None]
"""Called after every row."""


def ignored() -> None:
    """No call."""


@dataclass(frozen=True)
class Written:
    """The tokens of an answer, the end token included, and the number of tokens that a defense replaced."""

    ids: list[int]
    replaced: int | None = None
    """None for decoders that replace nothing."""


class Decoder(ABC):
    """A method to continue prompts."""

    @abstractmethod
    def room(self, prompt: int, new: int) -> int:
        """Largest number of tokens in the cache for a row of `prompt` tokens and an answer of `new` tokens."""

    def require(self, base: Base) -> None:
        """Raise UserError for a base that this decoder cannot continue."""
        return None

    def batches(self, base: Base, prompts: Sequence[list[int]], new: int) -> Iterator[list[int]]:
        """Rows that are written together. Rows of a model that is computed row by row meet rows of their own length
        only, and rows past the length at which rotary frequencies depend on it come alone."""
        limit = min(TOKENS_AT_ONCE, tokens_at_once(base))
        for indices in by_length([self.room(len(ids), new) for ids in prompts], limit):
            longest = max(len(prompts[index]) for index in indices) + new
            if depends_on_length(base.model, longest):
                yield from ([index] for index in indices)
            elif is_packed(base.model):
                yield indices
            else:
                yield from (list(group) for _, group in groupby(indices, key=lambda index: len(prompts[index])))

    @abstractmethod
    def write(
        self, base: Base, prompts: Sequence[list[int]], new: int, end: int, on_row: OnRow = ignored
    ) -> list[Written]:
        """Answer each prompt with at most `new` tokens; `end` is the end token."""


class Greedy(Decoder):
    """Greedy decoding: the likeliest token at every step."""

    def room(self, prompt: int, new: int) -> int:
        return prompt + new

    def batches(self, base: Base, prompts: Sequence[list[int]], new: int) -> Iterator[list[int]]:
        """All rows at once where they share a cache."""
        if prompts and _share_a_cache(base, prompts, new):
            yield list(range(len(prompts)))
        else:
            yield from super().batches(base, prompts, new)

    def write(
        self, base: Base, prompts: Sequence[list[int]], new: int, end: int, on_row: OnRow = ignored
    ) -> list[Written]:
        if _share_a_cache(base, prompts, new):
            return [Written(ids) for ids in answers_of(base, prompts, new, end, on_row)]
        with plain_attention(base.model):
            before_forward(base.model)
            answers = padded_answers(base.model, prompts, new, end)
        for _ in answers:
            on_row()
        return [Written(ids) for ids in answers]


def _share_a_cache(base: Base, prompts: Sequence[list[int]], new: int) -> bool:
    return is_packed(base.model) and not depends_on_length(base.model, max(map(len, prompts)) + new)


def padded_answers(model: Any, prompts: Sequence[list[int]], new: int, end: int) -> list[list[int]]:
    """Answers by transformers' own `generate`, the end token included."""
    ids, mask = left_padded(prompts, end, model.device)
    greedy = GenerationConfig(max_new_tokens=new, do_sample=False, use_cache=True, eos_token_id=end, pad_token_id=end)
    answers = model.generate(ids, attention_mask=mask, generation_config=greedy)[:, ids.shape[1] :].tolist()
    return [row[: row.index(end) + 1] if end in row else row for row in answers]


GREEDY = Greedy()


@torch.no_grad()
def generate_suite(
    base: Base,
    encoder: Encoder,
    suite: Suite,
    max_new_tokens: int,
    on_progress: Callable[[int], None] = lambda done: None,
    decoder: Decoder = GREEDY,
) -> list[Generated]:
    """Answers of the selected adapter, in the order of the suite's rows.

    An answer ends at the end token or after `max_new_tokens`; `on_progress(rows done)` is called after every row.
    Raises UserError E280 for a tokenizer without an end token, E293 or E294 for a model that cannot do this.
    """
    if not suite.rows:
        return []
    require_text(base.model.config.model_type)
    prompts = encoder.prompts(suite.rows)
    require_positions(base.model, max(map(len, prompts)) + max_new_tokens)
    decoder.require(base)
    rows_done = itertools.count(1)
    written: dict[int, Written] = {}
    for indices in decoder.batches(base, prompts, max_new_tokens):
        answers = decoder.write(
            base,
            [prompts[index] for index in indices],
            max_new_tokens,
            encoder.end_token,
            lambda: on_progress(next(rows_done)),
        )
        written.update(zip(indices, answers, strict=True))
    answers = [written[index] for index in range(len(prompts))]
    texts = base.tokenizer.batch_decode([answer.ids for answer in answers], skip_special_tokens=True)
    return [
        Generated(row.id, text.strip(), row.response or "", encoder.end_token in answer.ids, answer.replaced)
        for row, text, answer in zip(suite.rows, texts, answers, strict=True)
    ]


def left_padded(prompts: Sequence[list[int]], filler: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts as ids [B, longest], padded on the left, and their attention mask of the same shape."""
    longest = max(len(ids) for ids in prompts)
    ids = torch.tensor([[filler] * (longest - len(ids)) + ids for ids in prompts], device=device)
    return ids, torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts], device=device)


@contextmanager
def plain_attention(model: Any) -> Iterator[None]:
    """Switch a model to ordinary attention, without the sampling and penalties of its publisher, inside the block."""
    recommended = model.generation_config
    model.generation_config = GenerationConfig()
    usual = model.config._attn_implementation
    use_implementation(model, plain_implementation(model))
    try:
        yield
    finally:
        use_implementation(model, usual)
        model.generation_config = recommended
