"""What a model says about the rows of a suite: a score for every label from one forward pass per row."""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch

from p2p_dist.data.built import Suite
from p2p_dist.evaluation.sequence_scoring import Scored, score_words
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.batching import by_length
from p2p_dist.modeling.forward import answer_logits
from p2p_dist.modeling.packing import pack
from p2p_dist.modeling.tokenization import Encoded, Encoder
from p2p_dist.results.predictions import Prediction

Scoring = Literal["label_logits", "whole_string"]


def scoring_of(encoder: Encoder, suites: Iterable[Suite]) -> Scoring:
    """label_logits where the first token tells the label words apart after the prompts of all suites, else
    whole_string.

    Raises UserError E207 for two labels with one word.
    """
    firsts = [suite.rows[0] for suite in suites if suite.rows]
    return "label_logits" if all(encoder.label_tokens(row) is not None for row in firsts) else "whole_string"


@torch.no_grad()
def score_suite(
    base: Base,
    encoder: Encoder,
    suite: Suite,
    tick: Callable[[int], None] = lambda done: None,
    scoring: Scoring | None = None,
) -> list[Prediction]:
    """Predictions in the order of the suite's rows, by the one adapter that is bound.

    Rows are batched by length; `tick(rows done)` is called after every batch. `scoring` None: what this suite needs.
    """
    if not suite.rows:
        return []
    if (scoring or scoring_of(encoder, [suite])) == "whole_string":
        found = score_words(base, [encoder.choices(row) for row in suite.rows], tick)
    else:
        tokens = encoder.label_tokens(suite.rows[0])
        assert tokens is not None, "label_logits was chosen for words that it cannot tell apart"
        found = _score_first(base, encoder.rows(suite.rows)[0], torch.tensor(tokens, device=base.device), tick)
    return [
        Prediction(row.id, row.label, tuple(scores), top) for row, (scores, top) in zip(suite.rows, found, strict=True)
    ]


def _score_first(
    base: Base, encoded: Sequence[Encoded], tokens: torch.Tensor, tick: Callable[[int], None]
) -> list[Scored]:
    """The logits at the answer position, and nothing else is read. Shape: tokens [labels]."""
    found: dict[int, Scored] = {}
    for numbers in by_length([len(row.ids) for row in encoded]):
        rows = [encoded[at] for at in numbers]
        batch = pack([rows]).to(base.device)
        last = _last_prompt_positions(rows).to(base.device)
        logits = answer_logits(base.model, batch.ids, batch.positions, batch.packed, last)
        scores = torch.log_softmax(logits, dim=-1).index_select(1, tokens).cpu()
        top = logits.argmax(dim=-1)
        hit = (top[:, None] == tokens[None, :]).cpu()
        for at, number in enumerate(numbers):
            found[number] = (
                [round(s, 5) for s in scores[at].tolist()],
                int(hit[at].int().argmax()) if bool(hit[at].any()) else None,
            )
        tick(len(found))
    return [found[at] for at in range(len(encoded))]


def _last_prompt_positions(rows: Sequence[Encoded]) -> torch.Tensor:
    """Where the first label token is predicted: one position per row in the packed tokens, [N]."""
    positions, at = [], 0
    for row in rows:
        at += len(row.ids)
        positions.append(at - len(row.targets))
    return torch.tensor(positions)
