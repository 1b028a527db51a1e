"""Label scoring: a score for every label of every row of a suite, from one forward pass per row."""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch

from p2p_dist.data.built import Suite
from p2p_dist.evaluation.sequence_scoring import LOGITS_AT_ONCE, Scored, score_words
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.batching import by_length, tokens_per_pass
from p2p_dist.modeling.forward import answer_states, logits_of
from p2p_dist.modeling.packing import grouping, pack
from p2p_dist.modeling.tokenization import Encoded, Encoder
from p2p_dist.modeling.transfer import sent
from p2p_dist.results.predictions import Prediction

Scoring = Literal["label_logits", "whole_string"]


def scoring_of(encoder: Encoder, suites: Iterable[Suite]) -> Scoring:
    """Choose `label_logits` if first tokens distinguish the label words after the prompts of all suites, else
    `whole_string`.

    Raises UserError E207 for two labels with one word.
    """
    first_rows = [suite.rows[0] for suite in suites if suite.rows]
    return "label_logits" if all(encoder.label_tokens(row) is not None for row in first_rows) else "whole_string"


@torch.no_grad()
def score_suite(
    base: Base,
    encoder: Encoder,
    suite: Suite,
    on_progress: Callable[[int], None] = lambda done: None,
    scoring: Scoring | None = None,
) -> list[Prediction]:
    """Predictions of the selected adapter, in the order of the suite's rows.

    Rows are batched by length; `on_progress(rows done)` is called after every batch. `scoring` None chooses for this
    suite alone.
    """
    if not suite.rows:
        return []
    if (scoring or scoring_of(encoder, [suite])) == "whole_string":
        scored = score_words(base, [encoder.choices(row) for row in suite.rows], on_progress)
    else:
        tokens = encoder.label_tokens(suite.rows[0])
        assert tokens is not None, "label_logits was chosen for words with equal first tokens"
        scored = _score_first_tokens(base, encoder.rows(suite.rows)[0], tokens, on_progress)
    return [
        Prediction(row.id, row.label, tuple(scores), top) for row, (scores, top) in zip(suite.rows, scored, strict=True)
    ]


def _score_first_tokens(
    base: Base, encoded: Sequence[Encoded], tokens: Sequence[int], on_progress: Callable[[int], None]
) -> list[Scored]:
    """Log-probabilities of the first label tokens at the answer position. The host waits once for each pass."""
    scored: dict[int, Scored] = {}
    labels = sent(torch.tensor(tokens), base.device)
    for indices in by_length([len(row.ids) for row in encoded], tokens_per_pass(base.device)):
        rows = [encoded[index] for index in indices]
        batch = pack([rows], grouping(base.device)).to(base.device)
        last = sent(_last_prompt_positions(rows), base.device)
        states = answer_states(base.model, batch.ids, batch.positions, batch.packed, last)
        # A CPU's passes are small, and a product in pieces may round differently there.
        pieces = [states] if base.device.type == "cpu" else torch.split(states, LOGITS_AT_ONCE)
        read = torch.cat([_scores_and_top(logits_of(base.model, piece), labels) for piece in pieces]).tolist()
        for index, (*scores, top) in zip(indices, read, strict=True):
            scored[index] = [round(score, 5) for score in scores], tokens.index(top) if top in tokens else None
        on_progress(len(scored))
    return [scored[index] for index in range(len(encoded))]


def _scores_and_top(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Shapes: logits [A, V], labels (their tokens) [L] -> log-probability of each label, and the likeliest token of
    all, [A, L + 1] in fp64, which holds both exactly."""
    scores, top = torch.log_softmax(logits, dim=-1).index_select(1, labels), logits.argmax(dim=-1)
    return torch.cat([scores.double(), top[:, None].double()], dim=1)


def _last_prompt_positions(rows: Sequence[Encoded]) -> torch.Tensor:
    """Position in the packed tokens at which each row's first label token is predicted, [N]."""
    positions, end = [], 0
    for row in rows:
        end += len(row.ids)
        positions.append(end - len(row.targets))
    return torch.tensor(positions)
