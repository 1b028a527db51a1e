"""Sequence scoring: scores of whole label words, for words with equal first tokens (10, 11, ...; no, not ...).

The score of a label is log P(all tokens of its word | prompt), the end token included where the encoder closes words
with it; no length normalisation (reference: the "acc" of language-model evaluation harnesses). The prompt is read once:
the words behind it are a tree (`modeling/token_tree.py`).
"""

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch

from p2p_dist.modeling.base import Base
from p2p_dist.modeling.batching import by_length, tokens_per_pass
from p2p_dist.modeling.forward import answer_logits, answer_states, logits_of, unsharded
from p2p_dist.modeling.lengths import takes_trees_apart
from p2p_dist.modeling.packing import grouping, pack
from p2p_dist.modeling.token_tree import Tree, pack_trees, tree_of
from p2p_dist.modeling.tokenization import Choices, Encoded
from p2p_dist.modeling.transfer import sent

Scored = tuple[list[float], int | None]
LOGITS_AT_ONCE = 256
"""Positions whose logits over the whole vocabulary are held at a time: 160 MB at 152,000 tokens."""


@torch.no_grad()
def score_words(base: Base, rows: Sequence[Choices], on_progress: Callable[[int], None]) -> list[Scored]:
    """Scores of every label per row, and the label whose tokens are all the likeliest of the vocabulary, or None.

    `on_progress(rows done)` is called after every batch.
    """
    # A word may have other tokens behind another prompt.
    rows_by_words: dict[tuple[tuple[int, ...], ...], list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        rows_by_words[tuple(map(tuple, row.words))].append(index)
    scored: dict[int, Scored] = {}
    for words, members in rows_by_words.items():
        tree = tree_of(words)
        lengths = [len(rows[index].prompt) + len(tree.tokens) for index in members]
        for batch in by_length(lengths, tokens_per_pass(base.device)):
            indices = [members[position] for position in batch]
            prompts = [rows[index].prompt for index in indices]
            longest = max(map(len, prompts)) + len(tree.tokens)
            apart = takes_trees_apart(unsharded(base.model), longest)
            scores = _score_apart(base, prompts, words) if apart else _score(base, prompts, tree)
            scored.update(zip(indices, scores, strict=True))
            on_progress(len(scored))
    return [scored[index] for index in range(len(rows))]


def _score_apart(base: Base, prompts: Sequence[Sequence[int]], words: Sequence[Sequence[int]]) -> list[Scored]:
    """As `_score`, every word behind its own copy of the prompt: for models that are computed row by row."""
    scored: list[Scored] = []
    for prompt in prompts:
        rows = [Encoded("", [*prompt, *word[:-1]], list(word)) for word in words]
        batch = pack([rows], grouping(base.device)).to(base.device)
        logits = answer_logits(base.model, batch.ids, batch.positions, batch.packed, batch.answers)
        lengths = [len(word) for word in words]
        steps = torch.split(torch.log_softmax(logits, dim=-1).gather(1, batch.targets[:, None])[:, 0], lengths)
        likeliest = torch.split(logits.argmax(dim=-1) == batch.targets, lengths)
        scores = torch.stack([word.sum() for word in steps] + [word.all().float() for word in likeliest])
        scored.append(_scored(scores.tolist()))
    return scored


def _score(base: Base, prompts: Sequence[Sequence[int]], tree: Tree) -> list[Scored]:
    """The host waits once, for the scores of all prompts."""
    batch = pack_trees(prompts, [tree] * len(prompts), grouping(base.device)).to(base.device)
    states = answer_states(base.model, batch.ids, batch.positions, batch.packed, batch.answers).view(
        len(prompts), len(tree.tokens) + 1, -1
    )
    columns = [*map(list, zip(*tree.edges, strict=True)), *tree.paths]
    numbers = sent(torch.tensor([number for column in columns for number in column]), base.device)
    nodes, tokens, *paths = torch.split(numbers, [len(column) for column in columns])
    parts = []
    for part in torch.split(states, max(1, LOGITS_AT_ONCE // states.shape[1])):
        logits = logits_of(base.model, part)
        steps = torch.log_softmax(logits, dim=-1)[:, nodes, tokens]
        likeliest = logits.argmax(dim=-1)[:, nodes] == tokens
        scores = [steps[:, path].sum(dim=1) for path in paths]
        parts.append(torch.stack([*scores, *(likeliest[:, path].all(dim=1).float() for path in paths)], dim=1))
    return [_scored(row) for row in torch.cat(parts).tolist()]


def _scored(read: Sequence[float]) -> Scored:
    """Scores of all words, and behind them 1 for each whose tokens are all the likeliest."""
    words = len(read) // 2
    tops = list(read[words:])
    return [round(score, 5) for score in read[:words]], tops.index(1) if any(tops) else None
