"""Answers of free text: greedy decoding with a cache of keys and values, many rows at a time.

transformers' own `generate` on the model as it was trained; rows of one batch are padded on the left. A defense may
decode in another way (`Decoder`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from p2p_dist.data.built import Suite
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.batching import by_length
from p2p_dist.modeling.tokenization import Encoder
from p2p_dist.results.predictions import Generated

TOKENS_AT_ONCE = 16_384
"""Tokens of prompts and answers that are cached at a time: 2.7 GB for a model of 14 billion weights in bfloat16."""


@dataclass(frozen=True)
class Written:
    """The tokens of an answer, up to and with the end token, and how many of them a defense put in place of the model's
    own."""

    ids: list[int]
    replaced: int | None = None
    """None where nothing is ever replaced."""


class Decoder(ABC):
    """A way to continue prompts."""

    @abstractmethod
    def room(self, prompt: int, new: int) -> int:
        """Tokens that are cached, at the most, for a row of `prompt` tokens and an answer of `new`."""

    @abstractmethod
    def write(self, base: Base, prompts: Sequence[list[int]], new: int, end: int) -> list[Written]:
        """An answer to each prompt, of `new` tokens at the most."""


class Greedy(Decoder):
    """The likeliest token, every time."""

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
    tick: Callable[[int], None] = lambda done: None,
    decoder: Decoder = GREEDY,
) -> list[Generated]:
    """What the one adapter that is bound answers to every row, in the order of the rows; `tick(rows done)` after every
    batch.

    An answer ends at the end token or after `max_new_tokens`. Raises UserError E280 for a tokenizer without an end
    token.
    """
    if not suite.rows:
        return []
    prompts = encoder.prompts(suite.rows)
    found: dict[int, Written] = {}
    with plain_attention(base.model):
        for numbers in by_length([decoder.room(len(ids), max_new_tokens) for ids in prompts], TOKENS_AT_ONCE):
            found.update(
                zip(
                    numbers,
                    decoder.write(base, [prompts[at] for at in numbers], max_new_tokens, encoder.end_token),
                    strict=True,
                )
            )
            tick(len(found))
    answers = [found[at] for at in range(len(prompts))]
    texts = base.tokenizer.batch_decode([one.ids for one in answers], skip_special_tokens=True)
    return [
        Generated(row.id, text.strip(), row.response or "", encoder.end_token in one.ids, one.replaced)
        for row, text, one in zip(suite.rows, texts, answers, strict=True)
    ]


def left_padded(prompts: Sequence[list[int]], filler: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts as one tensor [B, longest], and 1 where their own tokens are."""
    longest = max(len(ids) for ids in prompts)
    ids = torch.tensor([[filler] * (longest - len(ids)) + ids for ids in prompts], device=device)
    return ids, torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts], device=device)


@contextmanager
def plain_attention(model: Any) -> Iterator[None]:
    """The model with ordinary attention, and without the sampling and penalties that its publisher recommends."""
    recommended = model.generation_config
    model.generation_config = GenerationConfig()
    usual = model.config._attn_implementation
    model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        model.set_attn_implementation(usual)
        model.generation_config = recommended
