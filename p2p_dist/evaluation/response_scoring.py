"""Log-probabilities of responses behind prompts that need not be their own.

A prompt is read once: the responses behind it are a tree (`modeling/token_tree.py`), and equal ones are scored once.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from p2p_dist.evaluation.sequence_scoring import LOGITS_AT_ONCE
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.batching import by_length, tokens_per_pass
from p2p_dist.modeling.forward import answer_losses, answer_states, logits_of, unsharded
from p2p_dist.modeling.lengths import takes_trees_apart
from p2p_dist.modeling.packing import grouping, pack
from p2p_dist.modeling.token_tree import Tree, pack_trees, tree_of
from p2p_dist.modeling.tokenization import Encoded
from p2p_dist.modeling.transfer import sent


@dataclass(frozen=True)
class Asked:
    """A prompt in tokens, with the responses to score behind it, none of them empty."""

    prompt: Sequence[int]
    responses: Sequence[Sequence[int]]


@torch.no_grad()
def score_responses(base: Base, asked: Sequence[Asked], on_progress: Callable[[int], None]) -> list[list[float]]:
    """Log-probability of every response behind its prompt, summed over its tokens.

    `on_progress(prompts done)` is called after every batch. Raises UserError E294 for a prompt with a response that is
    too long for the model.
    """
    trees = [tree_of(one.responses) for one in asked]
    lengths = [len(one.prompt) + len(tree.tokens) for one, tree in zip(asked, trees, strict=True)]
    scored: dict[int, list[float]] = {}
    for indices in by_length(lengths, tokens_per_pass(base.device)):
        batch = [asked[index] for index in indices]
        if takes_trees_apart(unsharded(base.model), max(lengths[index] for index in indices)):
            scores = [_score_apart(base, one) for one in batch]
        else:
            scores = _score(base, batch, [trees[index] for index in indices])
        scored.update(zip(indices, scores, strict=True))
        on_progress(len(scored))
    return [scored[index] for index in range(len(asked))]


def _score(base: Base, asked: Sequence[Asked], trees: Sequence[Tree]) -> list[list[float]]:
    batch = pack_trees([one.prompt for one in asked], trees, grouping(base.device)).to(base.device)
    states = answer_states(base.model, batch.ids, batch.positions, batch.packed, batch.answers)
    steps = iter(_edge_scores(base, states, trees))
    by_tree = [[next(steps) for _ in tree.edges] for tree in trees]
    return [
        [sum(of_tree[edge] for edge in path) for path in tree.paths]
        for tree, of_tree in zip(trees, by_tree, strict=True)
    ]


def _edge_scores(base: Base, states: torch.Tensor, trees: Sequence[Tree]) -> list[float]:
    """Log-probabilities of the edges of all trees, tree by tree; the host waits once. Shape: states of their nodes,
    [A, d]."""
    edges: list[tuple[int, int]] = []
    first = 0
    for tree in trees:
        edges += [(first + node, token) for node, token in tree.edges]
        first += len(tree.tokens) + 1
    order = sorted(range(len(edges)), key=lambda edge: edges[edge][0] // LOGITS_AT_ONCE)
    pieces = torch.split(states, LOGITS_AT_ONCE)
    counts = Counter(node // LOGITS_AT_ONCE for node, _ in edges)
    columns = sent(torch.tensor([(edges[edge][0] % LOGITS_AT_ONCE, edges[edge][1]) for edge in order]), states.device)
    edges_of = torch.split(columns, [counts[piece] for piece in range(len(pieces))])
    steps = [
        torch.log_softmax(logits_of(base.model, piece), dim=-1)[of_piece[:, 0], of_piece[:, 1]]
        for piece, of_piece in zip(pieces, edges_of, strict=True)
    ]
    scores = [0.0] * len(edges)
    for edge, step in zip(order, torch.cat(steps).tolist(), strict=True):
        scores[edge] = float(step)
    return scores


def _score_apart(base: Base, asked: Asked) -> list[float]:
    """As `_score`, every response behind its own copy of the prompt: for models that are computed row by row."""
    scores = []
    for response in asked.responses:
        row = Encoded("", [*asked.prompt, *response[:-1]], list(response))
        batch = pack([[row]], grouping(base.device)).to(base.device)
        losses = answer_losses(base.model, batch.ids, batch.positions, batch.packed, batch.answers, batch.targets)
        scores.append(-losses.sum())
    return [float(score) for score in torch.stack(scores).tolist()]
