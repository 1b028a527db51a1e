"""Method `word_perplexity`: perplexity of a text without each of its words (ONION, arXiv 2011.10369)."""

from collections.abc import Iterator, Sequence

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase

from p2p_dist.config.score_methods import WordPerplexity
from p2p_dist.data.example import text_key
from p2p_dist.errors import user_error
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.batching import by_length
from p2p_dist.modeling.control_tokens import tokenize
from p2p_dist.modeling.forward import answer_logits
from p2p_dist.modeling.packing import pack
from p2p_dist.modeling.tokenization import Encoded
from p2p_dist.scores.context import Context, Line

TOKENS_PER_BATCH = 2048
"""Logits of every token over the whole vocabulary are held at once: 0.4 GB for 49,152 words."""


def score(context: Context, method: WordPerplexity) -> list[Line]:
    """One line per different text: `whole`, its perplexity, and `without`, that without each word
    in turn (words are what spaces separate; None where nothing would be left)."""
    texts = sorted({row.text for _, suite in context.sets(method.sets) for row in suite.rows})
    lines: list[Line] = []
    for done, text in enumerate(texts, 1):
        variants = [text, *without_each_word(text)]
        numbers = iter(perplexities(context.base, [variant for variant in variants if variant]))
        whole, *without = [round(next(numbers), 4) if variant else None for variant in variants]
        lines.append({"set": "texts", "id": text_key(text), "whole": whole, "without": without})
        context.on_progress(done, len(texts))
    return lines


def without_each_word(text: str) -> list[str]:
    """The text without its first, second, ... word."""
    words = text.split(" ")
    return [" ".join(words[:index] + words[index + 1 :]) for index in range(len(words))]


@torch.no_grad()
def perplexities(base: Base, texts: Sequence[str]) -> list[float]:
    """exp of the mean negative log-likelihood of each text's own tokens, the first one judged after a start token."""
    start = _start_token(base.tokenizer)
    tokens = [row.ids for row in tokenize(base.tokenizer, texts)]
    rows = [Encoded(str(index), [start, *ids[:-1]], ids) for index, ids in enumerate(tokens)]
    by_index: dict[int, float] = {}
    for indices in by_length([len(row.ids) for row in rows], TOKENS_PER_BATCH):
        batch = pack([[rows[index] for index in indices]]).to(base.device)
        logits = answer_logits(base.model, batch.ids, batch.positions, batch.packed, batch.answers)
        each = cross_entropy(logits, batch.targets, reduction="none")
        by_index.update(zip(indices, _means(each, [len(rows[index].targets) for index in indices]), strict=True))
    return [by_index[index] for index in range(len(texts))]


def _means(each: torch.Tensor, counts: Sequence[int]) -> Iterator[float]:
    """exp of the mean of each run of `counts` numbers."""
    return (float(part.mean().exp()) for part in each.split(list(counts)))


def _start_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token before a text. Raises UserError E263 when the tokenizer has neither a start nor an end token."""
    token = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if token is None:
        raise user_error(
            "E263",
            "the model has no start token, so the first word of a text cannot be judged",
            "defense.language_model",
            "choose another model",
        )
    return int(token)
