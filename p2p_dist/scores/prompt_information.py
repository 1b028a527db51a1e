"""Method `prompt_information`: log-probabilities of text answers behind their own prompts and behind other rows'.

Rows are laid in a circle that is drawn by content; the prompts behind which an answer is scored are its own and those
of the rows behind it. So every prompt is read once, with as many answers as any other. What the numbers are for is told
in `data.text_screening`.
"""

from collections.abc import Sequence
from dataclasses import replace

from p2p_dist.config.score_methods import PromptInformation
from p2p_dist.data.example import Row, drawn
from p2p_dist.data.text_screening import stop_record, too_few_rows
from p2p_dist.errors import UserError, user_error
from p2p_dist.evaluation.response_scoring import Asked, score_responses
from p2p_dist.modeling.tokenization import Encoder
from p2p_dist.scores.context import Context, Line


def score(context: Context, method: PromptInformation) -> list[Line]:
    """One line per training row: `own` and `others`, the log-probabilities of its answer behind its own and behind
    other prompts, and `tokens` of the answer, its end token included; and one line `stop` of the set `screening` with
    the share of the answers that are likeliest behind their own prompt.

    By the base as it is. Raises UserError as `too_few_rows`, `prompts_before` and `score_responses` do.
    """
    rows = context.built.train
    if error := too_few_rows(len(rows), method.others):
        raise error
    answers = [encoded.targets for encoded in context.encoder.rows(rows)[0]]
    donors = answers_by_prompt(rows, method.others, context.seed)
    prompts = prompts_before(context.encoder, rows, [max(len(answers[donor]) for donor in of) for of in donors])
    asked = [Asked(prompts[at], [answers[donor] for donor in of_prompt]) for at, of_prompt in enumerate(donors)]
    scores = score_responses(context.base, asked, lambda done: context.on_progress(done, len(asked)))
    others: list[list[float]] = [[] for _ in rows]
    for of_prompt, known in zip(donors, scores, strict=True):
        for donor, score_ in zip(of_prompt[1:], known[1:], strict=True):
            others[donor].append(round(score_, 5))
    lines: list[Line] = [
        {
            "set": "train",
            "id": row.id,
            "own": round(scores[at][0], 5),
            "others": others[at],
            "tokens": len(answers[at]),
        }
        for at, row in enumerate(rows)
    ]
    return [*lines, {"set": "screening", "id": "stop", **stop_record(lines, method.agreement)}]


def answers_by_prompt(rows: Sequence[Row], others: int, seed: int) -> list[list[int]]:
    """For each row, the rows whose answers are scored behind its prompt: itself, and the `others` before it in the
    circle."""
    place = {row.id: at for at, row in enumerate(rows)}
    circle = [place[id_] for id_ in drawn(place, seed, "screen.prompts")]
    donors: list[list[int]] = [[] for _ in rows]
    for position, at in enumerate(circle):
        donors[at] = [circle[position - shift] for shift in range(others + 1)]
    return donors


def prompts_before(encoder: Encoder, rows: Sequence[Row], tokens: Sequence[int]) -> list[list[int]]:
    """Prompts in tokens, cut so that each leaves room for so many tokens of answers within the length limit.

    Raises UserError E224 where nothing is left to cut.
    """
    prompts = encoder.prompts(rows)
    for at, (row, count) in enumerate(zip(rows, tokens, strict=True)):
        room = encoder.max_length + 1 - count  # the last token of an answer is predicted and never read
        if len(prompts[at]) > room:
            try:
                (prompts[at],) = replace(encoder, max_length=room).prompts([row])
            except UserError as error:
                what = f"an answer of {count} tokens does not fit behind another row's prompt"
                raise user_error("E224", what, "train.max_length", "raise it") from error
    return prompts
