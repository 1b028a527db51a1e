"""Scores of whole label words, for words that do not differ in their first token (10, 11, ...; no, not ...).

The score of a label is log P(all tokens of its word | prompt), the end token included where the encoder closes words
with it; no length normalisation (reference: the "acc" of language-model evaluation harnesses). The prompt is read once:
the words behind it are a tree (`modeling/token_tree.py`).
"""

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch

from p2p_dist.modeling.base import Base
from p2p_dist.modeling.batching import by_length
from p2p_dist.modeling.forward import answer_states, logits_of
from p2p_dist.modeling.token_tree import Tree, pack_trees, tree_of
from p2p_dist.modeling.tokenization import Choices

Scored = tuple[list[float], int | None]
LOGITS_AT_ONCE = 256
"""Positions whose logits over the whole vocabulary are held at a time: 160 MB at 152,000 tokens."""


@torch.no_grad()
def score_words(base: Base, rows: Sequence[Choices], tick: Callable[[int], None]) -> list[Scored]:
    """Per row: the score of every label, and the label whose tokens are all the likeliest of the vocabulary, or None.

    `tick(rows done)` is called after every batch.
    """
    # The same words may fall into other tokens behind another prompt.
    alike: dict[tuple[tuple[int, ...], ...], list[int]] = defaultdict(list)
    for at, row in enumerate(rows):
        alike[tuple(map(tuple, row.words))].append(at)
    found: dict[int, Scored] = {}
    for words, members in alike.items():
        tree = tree_of(words)
        for batch in by_length([len(rows[at].prompt) + len(tree.tokens) for at in members]):
            numbers = [members[at] for at in batch]
            found.update(zip(numbers, _score(base, [rows[at].prompt for at in numbers], tree), strict=True))
            tick(len(found))
    return [found[at] for at in range(len(rows))]


def _score(base: Base, prompts: Sequence[Sequence[int]], tree: Tree) -> list[Scored]:
    batch = pack_trees(prompts, tree).to(base.device)
    states = answer_states(base.model, batch.ids, batch.positions, batch.packed, batch.answers).view(
        len(prompts), len(tree.tokens) + 1, -1
    )
    nodes, tokens = (torch.tensor(column, device=base.device) for column in zip(*tree.edges, strict=True))
    scored: list[Scored] = []
    for part in torch.split(states, max(1, LOGITS_AT_ONCE // states.shape[1])):
        logits = logits_of(base.model, part)
        steps = torch.log_softmax(logits, dim=-1)[:, nodes, tokens]
        likeliest = logits.argmax(dim=-1)[:, nodes] == tokens
        scores = torch.stack([steps[:, path].sum(dim=1) for path in tree.paths], dim=1).tolist()
        whole = torch.stack([likeliest[:, path].all(dim=1) for path in tree.paths], dim=1).tolist()
        scored += [
            ([round(score, 5) for score in row], hit.index(True) if any(hit) else None)
            for row, hit in zip(scores, whole, strict=True)
        ]
    return scored
