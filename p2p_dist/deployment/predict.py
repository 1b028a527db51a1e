"""Answers of an exported model to texts, by evaluation's own code."""

from collections.abc import Callable, Iterator, Sequence

from p2p_dist.data.built import Suite
from p2p_dist.deployment.answers import row_of
from p2p_dist.deployment.eval_files import answer_line, text_line
from p2p_dist.deployment.loaded import Deployed
from p2p_dist.deployment.prediction_files import Input
from p2p_dist.deployment.reading import read_answer
from p2p_dist.evaluation.generation import generate_suite
from p2p_dist.evaluation.label_scoring import Scoring, score_suite


def predict(
    deployed: Deployed, inputs: Sequence[Input], scores: bool, batch: int, on_progress: Callable[[int], None]
) -> Iterator[dict[str, object]]:
    """Answers in the order of the inputs, `batch` rows at a time; `on_progress(rows done)` after every pass."""
    for start in range(0, len(inputs), batch):

        def report(rows: int, before: int = start) -> None:
            on_progress(before + rows)

        yield from _answers(deployed, inputs[start : start + batch], scores, report)


def _answers(
    deployed: Deployed, inputs: Sequence[Input], scores: bool, on_progress: Callable[[int], None]
) -> list[dict[str, object]]:
    contract = deployed.contract
    answers, is_text = contract.answers, contract.answers.kind == "generation"
    # Rows are numbered: two inputs may have one id.
    rows = [row_of(one.text, contract.prompt, is_text, str(index), one.turns) for index, one in enumerate(inputs)]
    if is_text:
        suite = Suite(rows, 0, False, answers.response_prefix)
        texts = generate_suite(deployed.base, deployed.encoder, suite, answers.max_new_tokens, on_progress)
        return [text_line(one.id, text) for one, text in zip(inputs, texts, strict=True)]
    scoring: Scoring = "whole_string" if answers.scoring == "whole_string" else "label_logits"
    lines = score_suite(deployed.base, deployed.encoder, Suite(rows, 0, False), on_progress, scoring)
    return [
        answer_line(one.id, read_answer(line, answers.deployed), contract, scores)
        for one, line in zip(inputs, lines, strict=True)
    ]
