"""Method `labels`: what the model says about each row, as log-probabilities of the label words."""

from functools import partial

from p2p_dist.config.methods import LabelScores
from p2p_dist.evaluation.label_scoring import score_suite
from p2p_dist.scores.context import Context, Line


def score(context: Context, method: LabelScores) -> list[Line]:
    """One line per row: `label` and `scores`, the log-probability of the first token of each
    word."""
    sets = list(context.sets(method.sets))
    total, done = sum(len(suite.rows) for _, suite in sets), 0
    lines: list[Line] = []
    for name, suite in sets:
        tick = partial(_tick, context, done, total)
        found = score_suite(context.base, context.encoder, suite, tick)
        lines += [{"set": name, "id": row.id, "label": row.label, "scores": list(row.scores)} for row in found]
        done += len(suite.rows)
    return lines


def _tick(context: Context, before: int, total: int, rows: int) -> None:
    context.on_progress(before + rows, total)
