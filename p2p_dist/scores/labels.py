"""Method `labels`: log-probabilities of the label words for each row."""

from functools import partial

from p2p_dist.config.score_methods import LabelScores
from p2p_dist.evaluation.label_scoring import score_suite
from p2p_dist.scores.context import Context, Line


def score(context: Context, method: LabelScores) -> list[Line]:
    """One line per row: `label` and `scores`, the log-probability of the first token of each
    word."""
    sets = list(context.sets(method.sets))
    total, done = sum(len(suite.rows) for _, suite in sets), 0
    lines: list[Line] = []
    for name, suite in sets:
        on_batch = partial(_on_batch, context, done, total)
        predictions = score_suite(context.base, context.encoder, suite, on_batch)
        lines += [{"set": name, "id": row.id, "label": row.label, "scores": list(row.scores)} for row in predictions]
        done += len(suite.rows)
    return lines


def _on_batch(context: Context, before: int, total: int, rows: int) -> None:
    context.on_progress(before + rows, total)
