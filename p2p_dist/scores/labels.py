"""Method `labels`: what the model says about each row, as log-probabilities of the label words."""

from p2p_dist.evaluation.label_scoring import score_suite
from p2p_dist.scores.context import Context, Line


def score(context: Context) -> list[Line]:
    """One line per row of the option `sets`: `label` and `scores`, the log-probability of the first token of each word."""
    sets = list(context.sets())
    total, done = sum(len(suite.rows) for _, suite in sets), 0
    lines: list[Line] = []
    for name, suite in sets:
        found = score_suite(context.base, context.encoder, suite, lambda rows, before=done: context.tick(before + rows, total))  # type: ignore[misc]
        lines += [{"set": name, "id": row.id, "label": row.label, "scores": list(row.scores)} for row in found]
        done += len(suite.rows)
    return lines
