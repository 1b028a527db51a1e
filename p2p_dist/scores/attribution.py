"""Method `word_attribution`: how much each word of a text decides the answer, by gradient x input at the embeddings
(AttDef, arXiv 2305.02394, which propagates relevance through BERT's attention instead).

The attributed number is the log-probability of the predicted label word minus the mean over all label words.
"""

from collections.abc import Iterator, Sequence

import torch

from p2p_dist.config.score_methods import WordAttribution
from p2p_dist.data.example import Row, text_key
from p2p_dist.data.prompts import Span, answer
from p2p_dist.errors import user_error
from p2p_dist.modeling.batching import by_length
from p2p_dist.modeling.body import body_of
from p2p_dist.modeling.control_tokens import tokenize
from p2p_dist.modeling.forward import logits_of
from p2p_dist.modeling.lengths import require_packed
from p2p_dist.modeling.packing import pack
from p2p_dist.modeling.tokenization import Encoded
from p2p_dist.scores.context import Context, Line

TOKENS_PER_BATCH = 1024


def score(context: Context, method: WordAttribution) -> list[Line]:
    """One line per different text: `words`, the attribution of each of its words (what spaces separate) from 0 to 1, or
    None for a text that is cut to `max_length`.

    Raises UserError E288 for label words that their first token does not tell apart, E293 for a model that is computed
    row by row.
    """
    rows = list({row.text: row for _, suite in context.sets(method.sets) for row in suite.rows}.values())
    tokens = context.encoder.label_tokens(rows[0]) if rows else []
    if tokens is None:
        what = "attribution needs label words that differ in their first token"
        raise user_error("E288", what, "task.verbalizer", "set task.verbalizer=letters")
    encoded, _ = context.encoder.rows(rows)
    label_tokens = torch.tensor(tokens, device=context.base.device)
    lines: list[Line] = []
    for index, by_token in _by_token(context, encoded, label_tokens):
        spans = text_spans(context, rows[index], encoded[index])
        words = None if spans is None else scaled(by_word(rows[index].text, spans, by_token))
        lines.append({"set": "texts", "id": text_key(rows[index].text), "words": words})
        context.on_progress(len(lines), len(rows))
    return lines


def _by_token(
    context: Context, encoded: Sequence[Encoded], label_tokens: torch.Tensor
) -> Iterator[tuple[int, list[float]]]:
    """Number of every row, and the norm of gradient x input at each of its tokens."""
    model = context.base.model
    for indices in by_length([len(row.ids) for row in encoded], TOKENS_PER_BATCH):
        rows = [encoded[index] for index in indices]
        batch = pack([rows]).to(context.base.device)
        require_packed(model, batch.packed.longest, "the attribution of words")
        embedded = model.get_input_embeddings()(batch.ids).detach().requires_grad_()
        hidden = body_of(model)(
            inputs_embeds=embedded, position_ids=batch.positions, use_cache=False, packed=batch.packed
        ).last_hidden_state[0]
        ends = torch.tensor([len(row.ids) for row in rows]).cumsum(0)
        last = ends - torch.tensor([len(row.targets) for row in rows])
        chosen = torch.log_softmax(logits_of(model, hidden[last.to(hidden.device)]), dim=-1)[:, label_tokens]
        (gradient,) = torch.autograd.grad((chosen.amax(1) - chosen.mean(1)).sum(), embedded)
        norms = (gradient * embedded.detach()).float().norm(dim=-1)[0].cpu()
        for index, end in zip(indices, ends.tolist(), strict=True):
            yield index, norms[end - len(encoded[index].ids) : end].tolist()


def text_spans(context: Context, row: Row, encoded: Encoded) -> list[Span] | None:
    """Characters of the text that each token stands for, from before the text (negative) to behind it; None for a text
    that was cut."""
    encoder = context.encoder
    prompt = encoder.form.render(row)
    start, full_text = prompt.start, prompt.text + answer(row, encoder.words)
    trusted = [*prompt.trusted, (len(prompt.text), len(full_text))]
    (tokens,) = tokenize(encoder.tokenizer, [full_text], [trusted])
    ids = [*encoder.start, *tokens.ids]
    if encoded.ids != ids[: len(encoded.ids)] or len(ids) < len(encoded.ids):
        return None
    offsets = [*[(0, 0)] * len(encoder.start), *tokens.offsets]
    return [(first - start, stop - start) for first, stop in offsets[: len(encoded.ids)]]


def by_word(text: str, spans: Sequence[Span], by_token: Sequence[float]) -> list[float]:
    """Euclidean norm of the tokens of every word of the text, 0 for a word without one."""
    values, begin = [], 0
    for word in text.split(" "):
        end = begin + len(word)
        inside = [
            value for (first, stop), value in zip(spans, by_token, strict=True) if max(first, begin) < min(stop, end)
        ]
        values.append(sum(value**2 for value in inside) ** 0.5)
        begin = end + 1
    return values


def scaled(values: Sequence[float]) -> list[float]:
    """The values on a scale from the least (0) to the largest (1); all 0 where they are equal."""
    least, largest = min(values), max(values)
    return [round((value - least) / (largest - least), 5) if largest > least else 0.0 for value in values]
