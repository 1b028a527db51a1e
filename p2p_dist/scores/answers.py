"""Method `free_answers`: greedy answers of a model to the training rows, as in evaluation."""

from functools import partial

from p2p_dist.config.score_methods import FreeAnswers
from p2p_dist.data.built import Suite
from p2p_dist.evaluation.generation import generate_suite
from p2p_dist.scores.context import Context, Line


def score(context: Context, method: FreeAnswers) -> list[Line]:
    """One line per training row: `answer`, the text that the model writes, and with `ends` `finished`, false where it
    was cut off. Only for tasks that are answered with text.

    Raises UserError as `generate_suite` does.
    """
    assert context.built.responses is not None, "the answers are text"
    rows = context.built.train
    generated = generate_suite(
        context.base,
        context.encoder,
        Suite(rows, 0, triggered=False),
        context.built.responses.max_new_tokens,
        partial(_on_batch, context, len(rows)),
    )
    ends = [{"finished": one.finished} if method.ends else {} for one in generated]
    return [{"set": "train", "id": one.id, "answer": one.text, **end} for one, end in zip(generated, ends, strict=True)]


def _on_batch(context: Context, total: int, rows: int) -> None:
    context.on_progress(rows, total)
