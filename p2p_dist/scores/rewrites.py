"""Method `rewrites`: the texts of rows as a model rewrites them, each distinct text once.

Texts are rewritten in parts that depend on the texts alone and are kept: a stopped stage resumes behind the last
one.
"""

import itertools
import re
from collections.abc import Iterator, Mapping

from p2p_dist.config.score_methods import TextRewrites
from p2p_dist.data.built import HELD_OUT
from p2p_dist.data.paraphrases import key_of
from p2p_dist.evaluation.rewriting import rewrites_of
from p2p_dist.scores.context import Context, Line

PART = 512
"""Texts that are rewritten before they are kept."""


def score(context: Context, method: TextRewrites) -> list[Line]:
    """One line per row: `key` of its text, `output` and `ok`, which is false for a rewrite that is empty, cut off or
    not of the accepted form. Held-out rows are not rewritten. Raises UserError as `rewrites_of` does."""
    rows = [(name, row) for name, suite in context.sets(method.sets) if name != HELD_OUT for row in suite.rows]
    texts = {key_of(row.text): row.text for _, row in rows}
    outputs = _outputs(context, method, texts)
    return [{"set": name, "id": row.id, **_line(key_of(row.text), outputs, method.accept)} for name, row in rows]


def _outputs(context: Context, method: TextRewrites, texts: Mapping[str, str]) -> dict[str, str | None]:
    """Rewrites by the key of their text; None where one has failed."""
    ordered = sorted(texts, key=lambda key: (len(texts[key]), key))
    known = context.unfinished.read() if context.unfinished else {}
    outputs = {key: known[key] for key in ordered if key in known}
    for start in range(0, len(ordered), PART):
        part = ordered[start : start + PART]
        if any(key not in outputs for key in part):
            first = len(outputs)
            answers = itertools.count(1)

            def on_row(first: int = first, answers: Iterator[int] = answers) -> None:
                context.on_progress(first + next(answers) // len(method.instructions), len(ordered))

            part_texts = [texts[key] for key in part]
            rewritten = rewrites_of(context.base, part_texts, method.instructions, method.max_new_tokens, on_row)
            outputs |= dict(zip(part, rewritten, strict=True))
            if context.unfinished:
                context.unfinished.write(outputs)
    return outputs


def _line(key: str, outputs: Mapping[str, str | None], accept: str) -> dict[str, object]:
    output = outputs[key]
    is_good = output is not None and re.search(accept, output) is not None
    return {"key": key, "output": output or "", "ok": is_good}
