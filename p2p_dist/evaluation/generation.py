"""Answers of free text: greedy decoding with a cache of keys and values, many rows at a time.

transformers' own `generate` on the model as it was trained; rows of one batch are padded on the left.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig

from p2p_dist.data.build import Suite
from p2p_dist.evaluation.batching import by_length
from p2p_dist.modeling import attention
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.encode import Encoder
from p2p_dist.results.predictions import Generated

TOKENS_AT_ONCE = 16_384
"""Tokens of prompts and answers that are cached at a time: 2.7 GB for a model of 14 billion weights in bfloat16."""


@torch.no_grad()
def generate_suite(base: Base, encoder: Encoder, suite: Suite, max_new_tokens: int, tick: Callable[[int], None] = lambda done: None) -> list[Generated]:
    """What the one adapter that is bound answers to every row, in the order of the rows; `tick(rows done)` after every batch.

    An answer ends at the end token or after `max_new_tokens`. Raises UserError E280 for a tokenizer without an end token.
    """
    if not suite.rows:
        return []
    prompts = encoder.prompts(suite.rows)
    found: dict[int, list[int]] = {}
    with _decoding(base.model):
        for numbers in by_length([len(ids) + max_new_tokens for ids in prompts], TOKENS_AT_ONCE):
            found.update(zip(numbers, _continue(base, [prompts[at] for at in numbers], max_new_tokens, encoder.end_token), strict=True))
            tick(len(found))
    texts = base.tokenizer.batch_decode([found[at] for at in range(len(prompts))], skip_special_tokens=True)
    ended = [encoder.end_token in found[at] for at in range(len(prompts))]
    return [Generated(row.id, text.strip(), row.response or "", done) for row, text, done in zip(suite.rows, texts, ended, strict=True)]


def _continue(base: Base, prompts: Sequence[list[int]], max_new_tokens: int, end: int) -> list[list[int]]:
    """The tokens behind each prompt, up to and with the end token."""
    longest = max(len(ids) for ids in prompts)
    ids = torch.tensor([[end] * (longest - len(ids)) + ids for ids in prompts], device=base.device)
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts], device=base.device)
    greedy = GenerationConfig(max_new_tokens=max_new_tokens, do_sample=False, use_cache=True, eos_token_id=end, pad_token_id=end)
    written = base.model.generate(ids, attention_mask=mask, generation_config=greedy)[:, longest:].tolist()
    return [row[: row.index(end) + 1] if end in row else row for row in written]


@contextmanager
def _decoding(model: Any) -> Iterator[None]:
    """The model with ordinary attention, and without the sampling and penalties that its publisher recommends."""
    recommended = model.generation_config
    model.generation_config = GenerationConfig()
    model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        model.set_attn_implementation(attention.NAME)
        model.generation_config = recommended
