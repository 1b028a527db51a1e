"""Rewrites of texts by an instruction-tuned model: instruction and text in its chat template, greedy decoding."""

from collections.abc import Callable, Sequence

import torch

from p2p_dist.data.prompts import Span
from p2p_dist.data.rewrites import answer_of
from p2p_dist.errors import user_error
from p2p_dist.evaluation.generation import GREEDY, Written
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.control_tokens import tokenize
from p2p_dist.modeling.lengths import require_positions

_SENTENCE = "\n\nSentence: "
"""Text between an instruction and the text to rewrite."""


@torch.no_grad()
def rewrites_of(
    base: Base, texts: Sequence[str], instructions: Sequence[str], new: int, on_row: Callable[[], None]
) -> list[str | None]:
    """The rewrite of each text by the first instruction, of that by the second one, and so on; None where one of the
    answers is empty or does not end within `new` tokens.

    `on_row` is called after every answer. Raises UserError E280 for a tokenizer without an end token, E294 for a text
    that is too long for the model.
    """
    end = base.tokenizer.eos_token_id
    if end is None:
        raise user_error("E280", "the tokenizer has no end token", "rewriter", "choose another model")
    results: list[str | None] = list(texts)
    for instruction in instructions:
        indices = [index for index, text in enumerate(results) if text is not None]
        prompts = prompts_of(base, [str(results[index]) for index in indices], instruction)
        require_positions(base.model, max(map(len, prompts), default=0) + new)
        for index, answer in zip(indices, _answers(base, prompts, new, int(end), on_row), strict=True):
            text = answer_of(str(base.tokenizer.decode(answer.ids, skip_special_tokens=True)))
            results[index] = text if text and end in answer.ids else None
    return results


def _answers(base: Base, prompts: Sequence[list[int]], new: int, end: int, on_row: Callable[[], None]) -> list[Written]:
    written: dict[int, Written] = {}
    for indices in GREEDY.batches(base, prompts, new):
        answers = GREEDY.write(base, [prompts[index] for index in indices], new, end, on_row)
        written.update(zip(indices, answers, strict=True))
    return [written[index] for index in range(len(prompts))]


def prompts_of(base: Base, texts: Sequence[str], instruction: str) -> list[list[int]]:
    """Instruction and text in tokens, each text in the model's chat template, or as plain lines where it has none. A
    text writes no control token."""
    questions = [_question(base, text, instruction) for text in texts]
    trusted = [_around(question, text) for question, text in zip(questions, texts, strict=True)]
    return [tokens.ids for tokens in tokenize(base.tokenizer, questions, trusted)] if questions else []


def _question(base: Base, text: str, instruction: str) -> str:
    words = f"{instruction}{_SENTENCE}{text}"
    if base.tokenizer.chat_template is None:
        return f"{words}\nRewritten: "
    return str(
        base.tokenizer.apply_chat_template(
            [{"role": "user", "content": words}], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
    )


def _around(question: str, text: str) -> list[Span]:
    """Parts of a question that are not the text; none where the chat template has changed the text."""
    before = question.find(_SENTENCE)
    start = question.find(text.strip(), before + len(_SENTENCE) if before >= 0 else 0)
    return [] if start < 0 else [(0, start), (start + len(text.strip()), len(question))]
