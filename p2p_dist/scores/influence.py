"""Method `word_influence`: change of the model's state at the answer when a word of a training text is left out
(BKI, Chen and Dai 2021, arXiv 2007.12070; here the last hidden state at the position that predicts the label)."""

from dataclasses import replace

from p2p_dist.config.score_methods import WordInfluence
from p2p_dist.data.example import Row
from p2p_dist.scores.context import Context, Line
from p2p_dist.scores.states import first_answer_states
from p2p_dist.scores.words import without_each_word


def score(context: Context, method: WordInfluence) -> list[Line]:
    """One line per row: `words`, its `keep` most influential words as [word, influence], strongest
    first; a word counts once per text. Texts of one word have none."""
    sets = [(name, row) for name, suite in context.sets(method.sets) for row in suite.rows]
    lines: list[Line] = []
    for done, (name, row) in enumerate(sets, 1):
        lines.append({"set": name, "id": row.id, "words": _strongest(context, row, method.keep)})
        if done % 20 == 0 or done == len(sets):
            context.on_progress(done, len(sets))
    return lines


def _strongest(context: Context, row: Row, keep: int) -> list[tuple[str, float]]:
    variants = without_each_word(row.text)
    if len(variants) < 2:
        return []
    states = first_answer_states(context, [row, *(replace(row, text=text) for text in variants)])
    changes = (states[1:] - states[:1]).abs().amax(dim=1).tolist()
    best: dict[str, float] = {}
    for word, change in zip(row.text.split(" "), changes, strict=True):
        best[word] = max(best.get(word, 0.0), change)
    ranked = sorted(best.items(), key=lambda item: (-item[1], item[0]))[:keep]
    return [(word, round(change, 5)) for word, change in ranked]
