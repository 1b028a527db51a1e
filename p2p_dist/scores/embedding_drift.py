"""Method `embedding_drift`: words whose embeddings move most when embeddings alone are trained (BTU, arXiv 2501.03272,
list 3 of its released code).

What is trained is a copy of the input embeddings of the tokens that occur, for one pass over the rows; the output
layer, which may share them, stays as it is. Tokens of the texts are ranked by the Euclidean distance that they moved.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional

from p2p_dist.config.score_methods import EmbeddingDrift
from p2p_dist.modeling.batching import by_length
from p2p_dist.modeling.body import body_of
from p2p_dist.modeling.forward import logits_of
from p2p_dist.modeling.lengths import before_forward, require_packed
from p2p_dist.modeling.packing import pack
from p2p_dist.modeling.tokenization import Encoded
from p2p_dist.scores.attribution import text_spans
from p2p_dist.scores.context import Context, Line
from p2p_dist.training.batches import Schedule

TOKENS_PER_BATCH = 2048


def score(context: Context, method: EmbeddingDrift) -> list[Line]:
    """One line per suspected word of the training texts, `drift`: a word is suspected where all its tokens are. The set
    `tokens` has a line `counts` with the numbers of suspected and of different tokens in texts.

    Raises UserError E293 for a model that is computed row by row.
    """
    rows = context.built.train
    encoded, _ = context.encoder.rows(rows)
    tokens, drifts = _drifts(context, method, encoded)
    by_token = dict(zip(tokens.tolist(), drifts.tolist(), strict=True))
    words: dict[str, list[tuple[int, ...]]] = {}
    for row, one in zip(rows, encoded, strict=True):
        for word, ids in tokens_of_words(row.text, text_spans(context, row, one) or [], one.ids):
            words.setdefault(word, []).append(ids)
    in_texts = sorted({id_ for uses in words.values() for ids in uses for id_ in ids}, key=lambda id_: -by_token[id_])
    size = context.base.model.get_input_embeddings().weight.shape[0]
    suspects = set(in_texts[: max(1, int(method.share * size))])
    lines: list[Line] = [
        {"set": "words", "id": word, "drift": max(by_token[id_] for ids in uses for id_ in ids)}
        for word, uses in sorted(words.items())
        if any(suspects.issuperset(ids) for ids in uses)
    ]
    return [*lines, {"set": "tokens", "id": "counts", "suspected": len(suspects), "different": len(in_texts)}]


def _drifts(context: Context, method: EmbeddingDrift, rows: Sequence[Encoded]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens that occur [U], and how far the embedding of each moved [U]."""
    model, device = context.base.model, context.base.device
    tokens = torch.tensor(sorted({id_ for row in rows for id_ in row.ids}))
    embed = model.get_input_embeddings()
    index = torch.zeros(embed.weight.shape[0], dtype=torch.long, device=device)
    index[tokens.to(device)] = torch.arange(len(tokens), device=device)
    start = embed(tokens.to(device)).detach().float()
    moved = start.clone().requires_grad_()
    optimizer = torch.optim.AdamW([moved], lr=method.learning_rate)
    done = 0
    for numbers in Schedule(context.seed, len(rows), 1, method.batch).batches():
        chosen = [rows[number] for number in numbers]
        count = sum(len(row.targets) for row in chosen)
        moved.grad = torch.zeros_like(moved)
        for places in by_length([len(row.ids) for row in chosen], TOKENS_PER_BATCH):
            batch = pack([[chosen[place] for place in places]]).to(device)
            require_packed(model, batch.packed.longest, "embeddings of their own")
            before_forward(model)
            hidden = body_of(model)(
                inputs_embeds=moved[index[batch.ids]].to(context.base.dtype),
                position_ids=batch.positions,
                use_cache=False,
                packed=batch.packed,
            ).last_hidden_state
            logits = logits_of(model, hidden.reshape(-1, hidden.shape[-1]).index_select(0, batch.answers))
            loss = functional.cross_entropy(logits, batch.targets, reduction="sum") / count
            (part,) = torch.autograd.grad(loss, moved)
            moved.grad += part
        optimizer.step()
        done += len(chosen)
        context.on_progress(done, len(rows))
    return tokens, (moved.detach() - start).norm(dim=1).cpu()


def tokens_of_words(
    text: str, spans: Sequence[tuple[int, int]], ids: Sequence[int]
) -> list[tuple[str, tuple[int, ...]]]:
    """Words of the text (what spaces separate) with the tokens that overlap them; `spans` are the tokens' characters
    from the text's start."""
    words, begin = [], 0
    for word in text.split(" "):
        end = begin + len(word)
        tokens = tuple(
            id_ for (first, stop), id_ in zip(spans, ids, strict=False) if max(first, begin) < min(stop, end)
        )
        if word and tokens:
            words.append((word, tokens))
        begin = end + 1
    return words
