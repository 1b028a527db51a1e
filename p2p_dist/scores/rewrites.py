"""Method `rewrites`: the texts of rows as a model rewrites them, each distinct text once."""

import re

from p2p_dist.config.methods import TextRewrites
from p2p_dist.data.built import HELD_OUT
from p2p_dist.data.paraphrases import key_of
from p2p_dist.evaluation.rewriting import rewrites_of
from p2p_dist.scores.context import Context, Line


def score(context: Context, method: TextRewrites) -> list[Line]:
    """One line per row: `key` of its text, `output` and `ok`, which is false for a rewrite that is empty, cut off or
    not of the accepted form. Held-out rows are not rewritten. Raises UserError as `rewrites_of` does."""
    rows = [(name, row) for name, suite in context.sets(method.sets) if name != HELD_OUT for row in suite.rows]
    texts = list(dict.fromkeys(row.text for _, row in rows))
    answers = 0

    def on_row() -> None:
        nonlocal answers
        answers += 1
        context.on_progress(answers // len(method.instructions), len(texts))

    rewritten = rewrites_of(context.base, texts, method.instructions, method.max_new_tokens, on_row)
    outputs = dict(zip(texts, rewritten, strict=True))
    return [{"set": name, "id": row.id, **_line(row.text, outputs[row.text], method.accept)} for name, row in rows]


def _line(text: str, output: str | None, accept: str) -> dict[str, object]:
    is_good = output is not None and re.search(accept, output) is not None
    return {"key": key_of(text), "output": output or "", "ok": is_good}
