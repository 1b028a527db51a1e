"""Log-probabilities of responses behind prompts that need not be their own.

A prompt is read once: the responses behind it are a tree (`modeling/token_tree.py`), and equal ones are scored once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from p2p_dist.evaluation.sequence_scoring import LOGITS_AT_ONCE
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.batching import by_length, tokens_per_pass
from p2p_dist.modeling.forward import answer_losses, answer_states, logits_of, unsharded
from p2p_dist.modeling.lengths import takes_trees_apart
from p2p_dist.modeling.packing import pack
from p2p_dist.modeling.token_tree import Tree, pack_trees, tree_of
from p2p_dist.modeling.tokenization import Encoded


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
    batch = pack_trees([one.prompt for one in asked], trees).to(base.device)
    states = answer_states(base.model, batch.ids, batch.positions, batch.packed, batch.answers)
    steps = iter(_edge_scores(base, states, trees))
    by_tree = [[next(steps) for _ in tree.edges] for tree in trees]
    return [
        [sum(of_tree[edge] for edge in path) for path in tree.paths]
        for tree, of_tree in zip(trees, by_tree, strict=True)
    ]


def _edge_scores(base: Base, states: torch.Tensor, trees: Sequence[Tree]) -> list[float]:
    """Log-probabilities of the edges of all trees, tree by tree. Shape: states of their nodes, [A, d]."""
    edges: list[tuple[int, int]] = []
    first = 0
    for tree in trees:
        edges += [(first + node, token) for node, token in tree.edges]
        first += len(tree.tokens) + 1
    nodes, tokens = (torch.tensor(column, device=states.device) for column in zip(*edges, strict=True))
    steps = torch.empty(len(edges), device=states.device)
    for start in range(0, len(states), LOGITS_AT_ONCE):
        steps_here = (nodes >= start) & (nodes < start + LOGITS_AT_ONCE)
        scores = torch.log_softmax(logits_of(base.model, states[start : start + LOGITS_AT_ONCE]), dim=-1)
        steps[steps_here] = scores[nodes[steps_here] - start, tokens[steps_here]]
    return [float(step) for step in steps.tolist()]


def _score_apart(base: Base, asked: Asked) -> list[float]:
    """As `_score`, every response behind its own copy of the prompt: for models that are computed row by row."""
    scores = []
    for response in asked.responses:
        row = Encoded("", [*asked.prompt, *response[:-1]], list(response))
        batch = pack([[row]]).to(base.device)
        losses = answer_losses(base.model, batch.ids, batch.positions, batch.packed, batch.answers, batch.targets)
        scores.append(-float(losses.sum()))
    return scores
