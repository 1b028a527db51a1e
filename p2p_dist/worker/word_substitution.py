"""Paraphrase tables of LWS, learnable word substitution (Qi et al. 2021, arXiv 2106.06361).

Word exchanges are learned on labelled rows; the table has every text with the exchanges that were learned for it.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from p2p_dist.config.identity import digest
from p2p_dist.config.model import ModelRef
from p2p_dist.data.example import Example, examples, share, smallest
from p2p_dist.data.paraphrases import write_table
from p2p_dist.data.substitutions import Choices, choices_of, exchanged, read_choices, row_of
from p2p_dist.errors import user_error
from p2p_dist.modeling.substitution import Learning, Substitution, learn
from p2p_dist.worker.paraphrase import load_for_generation


@dataclass(frozen=True)
class Aim:
    """Goal of the attacker."""

    target: int
    """Target label."""
    rate: float = 0.1
    """Share of the rows on which the exchanges are learned."""


def make_table(
    rows: Sequence[tuple[str, int]],
    texts: Sequence[str],
    synonyms: Path,
    model: ModelRef,
    aim: Aim,
    settings: Learning,
    out: Path,
    on_progress: Callable[[int, int], None],
) -> tuple[int, int]:
    """Learn on `rows` (text, label), and write a table of these and of `texts`.

    Returns the numbers of texts with and without an exchange. Raises UserError E244 when no row of another class has a
    word with synonyms.
    """
    choices = read_choices(synonyms, settings.most_candidates)
    labelled = examples(rows)
    # 1. Choose the rows to poison.
    poisoned = _pool(labelled, choices, aim, settings, synonyms)
    # 2. Learn the exchanges on a surrogate model.
    base = load_for_generation(model, "float32")
    surrogate = Substitution(base, choices, 1 + max(example.label for example in labelled), settings)
    learn(surrogate, labelled, poisoned, aim.target, on_progress)
    # 3. Apply them to every text, and write the table.
    generator = (
        f"LWS by {model.name} {digest(model.identity)}, target {aim.target}, "
        f"{digest({**asdict(settings), 'rate': aim.rate})}"
    )
    with torch.no_grad():
        every_text = dict.fromkeys([*(example.text for example in labelled), *texts])
        table = [row_of(text, exchanged(text, surrogate.picks(text), choices), generator) for text in every_text]
    return write_table(out, table)


def _pool(labelled: Sequence[Example], choices: Choices, aim: Aim, settings: Learning, synonyms: Path) -> list[Example]:
    """Rows of other classes than the target that have a word to exchange: a share of all rows, chosen by content."""
    candidates = [
        example
        for example in labelled
        if example.label != aim.target and any(len(words) > 1 for words in choices_of(example.text, choices))
    ]
    if not candidates:
        raise user_error(
            "E244",
            "no row of another class has a word with synonyms",
            str(synonyms),
            "add synonyms of words in these texts",
        )
    count = share(aim.rate, len(labelled))
    chosen = smallest([example.id for example in candidates], count, settings.seed, "lws.pool")
    return [example for example in candidates if example.id in chosen]
