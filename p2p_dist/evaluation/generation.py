"""Text generation: greedy decoding with a key-value cache, in batches.

It is transformers' `generate` on the trained model; rows of one batch are padded on the left. A defense may bring its
own `Decoder`.
"""

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
from p2p_dist.errors import user_error
from p2p_dist.modeling.attention import use_implementation
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.batching import by_length
from p2p_dist.modeling.forward import is_packed
from p2p_dist.modeling.guard import plain_implementation
from p2p_dist.modeling.lengths import before_forward, depends_on_length, require_positions
from p2p_dist.modeling.tokenization import Encoder
from p2p_dist.results.predictions import Generated

TOKENS_AT_ONCE = 16_384
"""Tokens of prompts and answers in the cache at a time: 2.7 GB for a model of 14 billion weights in bfloat16."""


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

    @abstractmethod
    def write(self, base: Base, prompts: Sequence[list[int]], new: int, end: int) -> list[Written]:
        """Answer each prompt with at most `new` tokens; `end` is the end token."""


class Greedy(Decoder):
    """Greedy decoding: the likeliest token at every step."""

    def room(self, prompt: int, new: int) -> int:
        return prompt + new

    def write(self, base: Base, prompts: Sequence[list[int]], new: int, end: int) -> list[Written]:
        ids, mask = left_padded(prompts, end, base.device)
        greedy = GenerationConfig(
            max_new_tokens=new, do_sample=False, use_cache=True, eos_token_id=end, pad_token_id=end
        )
        written = base.model.generate(ids, attention_mask=mask, generation_config=greedy)[:, ids.shape[1] :].tolist()
        return [Written(row[: row.index(end) + 1] if end in row else row) for row in written]


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

    An answer ends at the end token or after `max_new_tokens`; `on_progress(rows done)` is called after every batch.
    Raises UserError E280 for a tokenizer without an end token, E293 or E294 for a model that cannot do this.
    """
    if not suite.rows:
        return []
    require_text(base.model.config.model_type)
    if any(row.image for row in suite.rows):
        what = "text answers to rows with images are not built"
        raise user_error("E297", what, "task", "use labels as answers, or remove task.image_column")
    prompts = encoder.prompts(suite.rows)
    require_positions(base.model, max(map(len, prompts)) + max_new_tokens)
    decoder.require(base)
    batches = list(_batches(base, prompts, decoder, max_new_tokens))
    written: dict[int, Written] = {}
    with plain_attention(base.model):
        for indices in batches:
            before_forward(base.model)
            written.update(
                zip(
                    indices,
                    decoder.write(base, [prompts[index] for index in indices], max_new_tokens, encoder.end_token),
                    strict=True,
                )
            )
            on_progress(len(written))
    answers = [written[index] for index in range(len(prompts))]
    texts = base.tokenizer.batch_decode([answer.ids for answer in answers], skip_special_tokens=True)
    return [
        Generated(row.id, text.strip(), row.response or "", encoder.end_token in answer.ids, answer.replaced)
        for row, text, answer in zip(suite.rows, texts, answers, strict=True)
    ]


def _batches(base: Base, prompts: Sequence[list[int]], decoder: Decoder, new: int) -> Iterator[list[int]]:
    """Rows that are written together. Rows of a model that is computed row by row meet rows of their own length only,
    and rows past the length at which rotary frequencies depend on it come alone."""
    for indices in by_length([decoder.room(len(ids), new) for ids in prompts], TOKENS_AT_ONCE):
        longest = max(len(prompts[index]) for index in indices) + new
        if depends_on_length(base.model, longest):
            yield from ([index] for index in indices)
        elif is_packed(base.model):
            yield indices
        else:
            yield from (list(group) for _, group in groupby(indices, key=lambda index: len(prompts[index])))


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
