"""Make LWS's paraphrase table: learn the exchanges on labelled rows, then write every text with the exchanges it
settled on."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from p2p_dist import assets
from p2p_dist.config.identity import digest
from p2p_dist.config.model import ModelRef
from p2p_dist.data.example import examples, share, smallest
from p2p_dist.data.paraphrases import write_table
from p2p_dist.data.substitutions import choices_of, exchanged, read_choices, row_of
from p2p_dist.errors import user_error
from p2p_dist.modeling.base import load_base
from p2p_dist.modeling.substitution import Learning, Substitution, learn


@dataclass(frozen=True)
class Aim:
    """What the attacker wants, and on how many of the rows the exchanges are learned."""

    target: int
    rate: float = 0.1


def make_table(
    rows: Sequence[tuple[str, int]],
    texts: Sequence[str],
    synonyms: Path,
    model: ModelRef,
    aim: Aim,
    settings: Learning,
    out: Path,
    tick: Callable[[int, int], None],
) -> tuple[int, int]:
    """Learn on `rows` (text, label), and write a table of these and of `texts`. Returns how many texts have an exchange
    and how many have none. Raises UserError E244 when no row of another class has a word that may be exchanged."""
    choices = read_choices(synonyms, settings.most_candidates)
    given = examples(rows)
    able = [
        ex for ex in given if ex.label != aim.target and any(len(words) > 1 for words in choices_of(ex.text, choices))
    ]
    if not able:
        raise user_error(
            "E244",
            "no row of another class has a word with synonyms",
            str(synonyms),
            "synonyms of words that these texts have",
        )
    wanted = share(aim.rate, len(given))
    chosen = smallest([ex.id for ex in able], wanted, settings.seed, "lws.pool")
    local = dict(model.local)
    if "asset" in local:
        assets.fetch(local["asset"], print)
    base = load_base(model.identity, local, "float32")
    base.model.set_attn_implementation("sdpa")  # ours is for packed rows, and these are padded
    surrogate = Substitution(base, choices, 1 + max(ex.label for ex in given), settings)
    learn(surrogate, given, [ex for ex in able if ex.id in chosen], aim.target, tick)
    generator = (
        f"LWS by {model.name} {digest(model.identity)}, target {aim.target}, "
        f"{digest({**asdict(settings), 'rate': aim.rate})}"
    )
    with torch.no_grad():
        every = dict.fromkeys([*(ex.text for ex in given), *texts])
        made = [row_of(text, exchanged(text, surrogate.picks(text), choices), generator) for text in every]
    return write_table(out, made)
