"""Method `word_influence`: how far the model's state at the answer moves when a word of a training text is left out
(BKI, Chen and Dai 2021, arXiv 2007.12070; here the last hidden state at the position that predicts the label)."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from p2p_dist.config.methods import WordInfluence
from p2p_dist.data.example import Row
from p2p_dist.modeling.batching import by_length
from p2p_dist.modeling.forward import answer_states
from p2p_dist.modeling.packing import pack
from p2p_dist.scores.context import Context, Line
from p2p_dist.scores.words import without_each_word


def score(context: Context, method: WordInfluence) -> list[Line]:
    """One line per row: `words`, its `keep` most influential words as [word, influence], strongest
    first; a word counts once per text. Texts of one word have none."""
    sets = [(name, row) for name, suite in context.sets(method.sets) for row in suite.rows]
    lines: list[Line] = []
    for at, (name, row) in enumerate(sets):
        lines.append({"set": name, "id": row.id, "words": _strongest(context, row, method.keep)})
        if at % 20 == 19 or at + 1 == len(sets):
            context.on_progress(at + 1, len(sets))
    return lines


def _strongest(context: Context, row: Row, keep: int) -> list[tuple[str, float]]:
    variants = without_each_word(row.text)
    if len(variants) < 2:
        return []
    states = _states(context, [row, *(replace(row, text=text) for text in variants)])
    moved = (states[1:] - states[:1]).abs().amax(dim=1).tolist()
    best: dict[str, float] = {}
    for word, far in zip(row.text.split(" "), moved, strict=True):
        best[word] = max(best.get(word, 0.0), far)
    ranked = sorted(best.items(), key=lambda item: (-item[1], item[0]))[:keep]
    return [(word, round(far, 5)) for word, far in ranked]


@torch.no_grad()
def _states(context: Context, rows: Sequence[Row]) -> torch.Tensor:
    """The last hidden state at the position that predicts the first label token, [rows, d] in fp32."""
    encoded, _ = context.encoder.rows(rows)
    found: dict[int, torch.Tensor] = {}
    for numbers in by_length([len(row.ids) for row in encoded]):
        batch = pack([[encoded[at] for at in numbers]]).to(context.base.device)
        starts = [sum(len(encoded[at].targets) for at in numbers[:k]) for k in range(len(numbers))]
        states = answer_states(
            context.base.model, batch.ids, batch.positions, batch.packed, batch.answers[torch.tensor(starts)]
        )
        found.update(zip(numbers, states.float().cpu(), strict=True))
    return torch.stack([found[at] for at in range(len(rows))])
